import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.quantizers import BinaryCodec, FloatCodec, ProductCodec, ResidualCodec

QUERIES = np.array([[3.0, 4.0], [0.0, -2.0]], np.float32)
DATABASE = np.array([[0.8, -0.1], [-5.0, 0.5], [2.5, 2.5]], np.float32)
SIMILAR = np.array([[True, False, True], [False, True, False]])
BOOKS = np.array([[[1.0], [-1.0]], [[0.0], [3.0]]], np.float32)
PRODUCT = np.array([[1, 0], [-1, 0], [1, 3]], np.float32)
SIGNS = np.array([[1, -1], [-1, 1], [1, 1]], np.float32)
SUMS = np.array([[[0.0, 1.0], [-1.0, 0.0]], [[2.0, 2.0], [0.0, 0.0]]], np.float32)


@pytest.mark.parametrize(
    ("codec", "decoded"),
    [
        (ProductCodec(BOOKS), PRODUCT),
        (BinaryCodec(2), SIGNS),
        (
            BinaryCodec(2, offset=np.array([1.0, 0.0], np.float32)),
            SIGNS * [[-1, 1], [1, 1], [1, 1]] + [1, 0],
        ),
        (ResidualCodec(SUMS), [[0, 1], [-1, 0], [2, 3]]),
        (FloatCodec(2), DATABASE),
    ],
)
def test_coded_has_codes_on_the_database_side(codec, decoded):
    loss = losses.coded(losses.pairwise_inner_product, codec)
    due = losses.pairwise_inner_product(QUERIES, np.float32(decoded), SIMILAR)
    np.testing.assert_allclose(loss(QUERIES, DATABASE, SIMILAR), due, rtol=1e-6)


def test_coded_passes_the_gradient_at_the_codes():
    loss = losses.coded(losses.pairwise_inner_product, ProductCodec(BOOKS))

    def total(queries, database, of=loss):
        return jnp.sum(of(queries, database, SIMILAR))

    got = jax.jit(jax.grad(total, argnums=(0, 1)))(QUERIES, DATABASE)
    plain = functools.partial(total, of=losses.pairwise_inner_product)
    due = jax.grad(plain, argnums=(0, 1))(QUERIES, PRODUCT)
    for one, other in zip(got, due, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_codebooks_may_change_from_step_to_step():
    @jax.jit
    def total(books):
        loss = losses.coded(losses.pairwise_inner_product, ProductCodec(books))
        return jnp.sum(loss(QUERIES, DATABASE, SIMILAR))

    value, gradient = jax.value_and_grad(total)(BOOKS)
    assert value == total(BOOKS) != total(2 * BOOKS)
    np.testing.assert_array_equal(gradient, np.zeros_like(BOOKS))


def test_nested_made_by_hand():
    # Squared distances to the signs of the entries: 4, 9, 1, and 1, 1, 0.25.
    x = np.array([[3.0, -4.0, 0.0], [0.0, -2.0, 1.5]], np.float32)
    loss = losses.nested(losses.sign_error, [1, 3], embeddings=[0])
    np.testing.assert_array_equal(loss(x), [4 + 14, 1 + 2.25])
    loss = losses.nested(losses.sign_error, [1, 3], weights=[2.0, 0.5], embeddings=[0])
    np.testing.assert_array_equal(loss(x), [8 + 7, 2 + 1.125])


def test_nested_cuts_triplets_and_proxies_and_leaves_labels(rng):
    a, p, n = np.float32(rng.normal(size=(3, 4, 6)))
    loss = functools.partial(losses.triplet_margin, margin=2.0)
    got = losses.nested(loss, (2, 6), embeddings=(0, 1, 2))(a, p, n)
    np.testing.assert_allclose(got, loss(a[:, :2], p[:, :2], n[:, :2]) + loss(a, p, n), rtol=1e-6)
    labels = np.eye(4, dtype=int)
    got = losses.nested(losses.orthogonal_cosine, (3,), embeddings=(0, 2))(a, labels, p)
    due = losses.orthogonal_cosine(a[:, :3], labels, p[:, :3])
    np.testing.assert_allclose(got, due, rtol=1e-6)


def test_the_longest_embedding_is_coded_and_its_prefixes_compared():
    loss = losses.coded(losses.nested(losses.pairwise_inner_product, (1, 2)), ProductCodec(BOOKS))
    whole = losses.pairwise_inner_product(QUERIES, PRODUCT, SIMILAR)
    half = losses.pairwise_inner_product(QUERIES[:, :1], PRODUCT[:, :1], SIMILAR)
    np.testing.assert_allclose(loss(QUERIES, DATABASE, SIMILAR), whole + half, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.nested(losses.sign_error, ()),
            r"lengths must be one or more numbers from 1 on, got \(\)",
        ),
        (
            lambda: losses.nested(losses.sign_error, (0, 2)),
            r"lengths must be one or more numbers from 1 on, got \(0, 2\)",
        ),
        (
            lambda: losses.nested(losses.sign_error, (1, 2), weights=(1.0,)),
            r"weights must be one for each of \(1, 2\), got \(1.0,\)",
        ),
        (
            lambda: losses.nested(losses.sign_error, (1, 4), embeddings=(0,))(QUERIES),
            r"lengths must be at most the width 2, got \(1, 4\)",
        ),
        (
            lambda: losses.nested(losses.pairwise_cosine, (1,))(QUERIES, DATABASE[:, :1], SIMILAR),
            r"database must have shape \[N, 2\], got \(3, 1\)",
        ),
        (
            lambda: losses.coded(losses.pairwise_cosine, BinaryCodec(2))(
                QUERIES, DATABASE[:, :1], SIMILAR
            ),
            r"database must have shape \[N, 2\], got \(3, 1\)",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
