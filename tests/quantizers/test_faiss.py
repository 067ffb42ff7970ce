"""Our codes are FAISS's codes, byte for byte, with our codebooks copied in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import ProductCodec, ResidualCodec, additive, product

faiss = pytest.importorskip("faiss")

ROWS, D, QUERIES = 200, 12, 5
X = np.float32(np.random.default_rng(1).normal(size=(ROWS, D)))
# Bits of a code are M times the bits of a codeword: 12, 24, 48, 9, 14, 6.
SIZES = [(3, 16), (6, 16), (6, 256), (3, 8), (2, 128), (6, 2)]


def codebooks(num_codebooks, num_codewords, width):
    rng = np.random.default_rng(num_codewords)
    return np.float32(rng.normal(size=(num_codebooks, num_codewords, width)))


@pytest.mark.parametrize(("num_codebooks", "num_codewords"), SIZES)
def test_product_codes_are_those_of_faiss(num_codebooks, num_codewords):
    books = codebooks(num_codebooks, num_codewords, D // num_codebooks)
    codec = ProductCodec(jnp.asarray(books))
    theirs = faiss.ProductQuantizer(D, num_codebooks, num_codewords.bit_length() - 1)
    faiss.copy_array_to_vector(books.ravel(), theirs.centroids)
    codes = np.asarray(codec.encode(jnp.asarray(X)))
    assert codec.num_bytes == theirs.code_size
    np.testing.assert_array_equal(codes, theirs.compute_codes(X))
    np.testing.assert_array_equal(codec.decode(codes), theirs.decode(codes))


@pytest.mark.parametrize(("metric", "compute"), [("l2", "distance"), ("ip", "inner_prod")])
def test_lookup_tables_are_those_of_faiss(metric, compute):
    books = codebooks(3, 16, D // 3)
    theirs = faiss.ProductQuantizer(D, 3, 4)
    faiss.copy_array_to_vector(books.ravel(), theirs.centroids)
    due = np.zeros((QUERIES, 3, 16), np.float32)
    queries = np.ascontiguousarray(X[:QUERIES])
    getattr(theirs, f"compute_{compute}_tables")(
        QUERIES, faiss.swig_ptr(queries), faiss.swig_ptr(due)
    )
    got = product.lookup_tables(jnp.asarray(books), jnp.asarray(queries), metric=metric)
    np.testing.assert_allclose(got, due if metric == "l2" else -due, rtol=1e-4, atol=1e-5)


def residual_quantizer(books, beam_width):
    num_codebooks, num_codewords, width = books.shape
    theirs = faiss.ResidualQuantizer(width, num_codebooks, num_codewords.bit_length() - 1)
    faiss.copy_array_to_vector(books.ravel(), theirs.codebooks)
    theirs.max_beam_size = beam_width
    theirs.is_trained = True
    return theirs


@pytest.mark.by_default("3-16-5", "6-256-1", "3-8-5", "6-2-1")
@pytest.mark.parametrize("beam_width", [1, 5])
@pytest.mark.parametrize(("num_codebooks", "num_codewords"), SIZES)
def test_residual_codes_are_those_of_faiss(num_codebooks, num_codewords, beam_width):
    books = codebooks(num_codebooks, num_codewords, D)
    books *= 0.6 ** np.arange(num_codebooks, dtype=np.float32)[:, None, None]
    codec = ResidualCodec(jnp.asarray(books), beam_width=beam_width)
    theirs = residual_quantizer(books, beam_width)
    codes = np.asarray(jax.jit(codec.encode)(X))
    assert codec.num_bytes == theirs.code_size
    np.testing.assert_array_equal(codes, theirs.compute_codes(X))
    np.testing.assert_allclose(
        jax.jit(codec.decode)(codes), theirs.decode(codes), rtol=1e-5, atol=1e-6
    )


@pytest.mark.by_default("5")
@pytest.mark.parametrize("beam_width", [1, 5])
def test_fitted_residual_codebooks_are_as_good_as_those_of_faiss(beam_width):
    rng = np.random.default_rng(2)
    rows = np.float32(rng.normal(size=(1400, D)) @ rng.normal(size=(D, D)))
    seen, other = rows[:700], rows[700:]
    theirs = faiss.ResidualQuantizer(D, 3, 4)
    theirs.train_type, theirs.max_beam_size = faiss.ResidualQuantizer.Train_default, beam_width
    theirs.train(seen)
    fit = functools.partial(
        additive.fit_codebooks, num_codebooks=3, num_codewords=16, beam_width=beam_width
    )
    books = jax.jit(fit)(jax.random.key(0), jnp.asarray(seen))
    codec = ResidualCodec(books, beam_width=beam_width)
    ours = np.mean((other - codec.decode(codec.encode(jnp.asarray(other)))) ** 2)
    assert ours < 1.03 * np.mean((other - theirs.decode(theirs.compute_codes(other))) ** 2)
