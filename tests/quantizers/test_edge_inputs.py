"""Integer rows, no rows at all, temperatures of 0 and rotations that rotate nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
    gumbel,
    product,
    rotation,
)

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8)), jnp.float32)
BOOKS = X[:32].reshape(16, 2, 8)[:, :, :4].transpose(1, 0, 2)
OWN = jnp.arange(40)
CODECS = {
    "product": ProductCodec(BOOKS),
    "product, cosine": ProductCodec(BOOKS, metric="cosine"),
    "product, rotated": ProductCodec(BOOKS, rotation=jnp.eye(8)[::-1]),
    "signs": BinaryCodec(8),
    "signs, projected": BinaryCodec(3, jnp.zeros(8), jnp.eye(8)[:, :3]),
    "residual": ResidualCodec(X[:32].reshape(2, 16, 8)),
    "residual, beam": ResidualCodec(X[:32].reshape(2, 16, 8), beam_width=3),
    "float": FloatCodec(8),
    "float, cosine": FloatCodec(8, metric="cosine"),
    "class": ClassCodec(8),
}


@pytest.mark.by_default("product, rotated", "signs*", "residual, beam", "float", "class")
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_no_rows_give_no_codes(codec):
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    distances = jax.jit(codec.distances)
    codes, decoded = encode(X), decode(encode(X))
    for coded in (encode(X[:0]), codec.encode(X[:0])):
        assert (coded.shape, coded.dtype) == ((0, codec.num_bytes), codes.dtype)
    assert decode(codes[:0]).shape == (0, *decoded.shape[1:])
    assert distances(X[:0], codes).shape == (0, 40)
    assert distances(X, codes[:0]).shape == (40, 0)


QUANTIZERS = {
    "soft": lambda books, x: product.quantize(books, x, temperature=1.0),
    "identity": product.quantize_identity,
    "gumbel": lambda books, x: gumbel.gumbel_quantize(KEY, books, x, temperature=1.0),
}


@pytest.mark.parametrize("quantize", QUANTIZERS.values(), ids=QUANTIZERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_integer_rows_are_quantized_to_real_ones(quantize, dtype):
    x = np.random.default_rng(1).integers(0, 2, (20, 8)).astype(dtype)
    books = 0.25 + BOOKS
    found = quantize(books, x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, quantize(books, x.astype(np.float32)))
    assert quantize(books, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("quantize", QUANTIZERS.values(), ids=QUANTIZERS)
def test_no_rows_are_quantized_to_no_rows(quantize):
    assert quantize(BOOKS, X[:0]).shape == (0, X.shape[1])


TEMPERED = {
    "soft_assign": lambda t: product.soft_assign(BOOKS, X, temperature=t),
    "quantize": lambda t: product.quantize(BOOKS, X, temperature=t),
    "gumbel_assign": lambda t: gumbel.gumbel_assign(KEY, BOOKS, X, temperature=t),
    "gumbel_quantize": lambda t: gumbel.gumbel_quantize(KEY, BOOKS, X, temperature=t),
    "nt_xent": lambda t: losses.nt_xent(X, X, OWN, OWN, temperature=t),
    "debiased_nt_xent": lambda t: losses.debiased_nt_xent(
        X, X, OWN, OWN, temperature=t, positive_prior=0.1
    ),
    "cross_quantized": lambda t: losses.cross_quantized(X, X, X, X, OWN, temperature=t),
    "cibhash": lambda t: losses.cibhash(X, X, X, X, OWN, temperature=t),
}


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_must_be_above_zero(name, temperature):
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got"):
        TEMPERED[name](temperature)


def test_a_rotation_must_rotate():
    kept = rotation.random_rotation(KEY, 8)
    codes = ProductCodec(BOOKS, rotation=kept).encode(X)
    for wrong in (2 * kept, kept.at[0].set(0), jnp.ones((8, 8))):
        with pytest.raises(ValueError, match="rotation must be orthogonal"):
            ProductCodec(BOOKS, rotation=wrong).encode(X)
        with pytest.raises(ValueError, match="rotation must be orthogonal"):
            ProductCodec(BOOKS, rotation=wrong).distances(X, codes)
