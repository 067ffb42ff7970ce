import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.quantizers import ProductCodec, product, scalar

LEVELS = (3, 4, 8, 5)


def test_levels_made_by_hand():
    x = np.array([[0.0] * 4, [-9.0] * 4, [9.0] * 4], np.float32)
    got = scalar.finite_scalar(x, levels=LEVELS)
    np.testing.assert_array_equal(got, [[0] * 4, [-1] * 4, [1, 1 / 2, 3 / 4, 1]])


@pytest.mark.parametrize("count", [3, 4, 5, 8, 255, 256])
def test_every_level_is_reached_and_no_other(count):
    x = jnp.linspace(-8, 8, 20001)[:, None]
    got = np.unique(scalar.finite_scalar(x, levels=(count,)))
    np.testing.assert_allclose(got, np.unique(scalar.codebooks((count,))), rtol=1e-6)
    assert len(got) == count


def test_the_gradient_is_the_bounds():
    gradient = jax.grad(lambda x: jnp.sum(scalar.finite_scalar(x, levels=(3, 5))))
    # h (1 - tanh^2) / floor(L / 2), at 0 and at artanh(1/2).
    got = gradient(np.array([[0.0, np.arctanh(0.5)]], np.float32))
    np.testing.assert_allclose(got, [[0.999, 0.999 * 2 * 0.75 / 2]], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_codec_stores_the_levels(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), dtype)
    quantized = scalar.finite_scalar(x, levels=LEVELS)
    codec = ProductCodec(scalar.codebooks(LEVELS))
    assert codec.bits == 4 * 3
    due = np.float32(scalar.finite_scalar(jnp.asarray(x, jnp.float32), levels=LEVELS))
    np.testing.assert_array_equal(codec.decode(codec.encode(quantized)), due)


def test_unequal_levels_repeat_the_last_codeword():
    got = scalar.codebooks((3, 4))[:, :, 0]
    np.testing.assert_array_equal(got, [[-1, 0, 1, 1], [-1, -0.5, 0, 0.5]])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((2, 4), r"levels must be from 3 to 256, got \(2, 4\); binary.sign has two"),
        ((4, 257), r"levels must be from 3 to 256, got \(4, 257\); binary.sign has two"),
        ((), r"levels must be one whole number for each of D numbers, got \(\)"),
        ((4.0, 5.0), r"levels must be one whole number for each of D numbers, got \(4.0, 5.0\)"),
        (8, "levels must be one whole number for each of D numbers, got 8"),
    ],
)
def test_other_levels_are_refused(levels, message):
    for call in (
        scalar.codebooks,
        lambda levels: scalar.finite_scalar(np.zeros((1, 2)), levels=levels),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call(levels)


def test_lookup_free_terms_as_the_docstring_says(rng):
    x, temperature = rng.normal(size=(7, 3)), 0.7
    signs = jnp.tile(jnp.array([[-1.0], [1.0]]), (3, 1, 1))
    soft = product.soft_assign(signs, jnp.asarray(x, jnp.float32), temperature=temperature)
    got = np.mean(losses.code_entropy(soft)) + np.mean(losses.usage_entropy(soft))
    chances = 1 / (1 + np.exp(-4 * x / temperature))  # of +1

    def entropy(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    # E[H(p)] - H(E[p]), but for log 2.
    due = np.mean(entropy(chances)) - np.mean(entropy(np.mean(chances, axis=0))) + np.log(2)
    np.testing.assert_allclose(got, due, rtol=1e-5)
