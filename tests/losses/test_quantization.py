import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

X = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], np.float32)
QUANTIZED = np.array([[0.0, 2.0, 5.0], [0.0, 1.0, -3.0]], np.float32)


def test_quantization_error_made_by_hand():
    np.testing.assert_array_equal(losses.quantization_error(X, QUANTIZED), [5.0, 13.25])


def test_quantization_error_pulls_both_sides_together():
    def first_row(x, quantized):
        return losses.quantization_error(x, quantized)[0]

    to_x, to_quantized = jax.grad(first_row, argnums=(0, 1))(X, QUANTIZED)
    np.testing.assert_array_equal(to_x, [[2.0, 0.0, -4.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(to_quantized, -to_x)


# Differences to the signs: 0, 1, 2 and -0.5, 0, -1, the sign of 0 being +1. log cosh of 0.5, 1, 2
# is 0.1201145, 0.4337808, 1.3250027.
@pytest.mark.parametrize(
    ("function", "due"),
    [
        (losses.absolute_sign_error, [3.0, 1.5]),
        (losses.sign_error, [5.0, 1.25]),
        (losses.log_cosh_sign, [1.7587835, 0.5538953]),
        (losses.cubed_sign_error, [3.0, 0.375]),
    ],
)
def test_values_made_by_hand(function, due):
    np.testing.assert_allclose(function(X), due, rtol=1e-6)


def test_cauchy_sign_error_made_by_hand():
    # cos(|x|, 1) = 7 / 5 / sqrt 2, then 1, and 0 for zeros: d = 1 - cos, D/2 being 1.
    x = np.array([[3.0, -4.0], [-0.5, 0.5], [0.0, 0.0]], np.float32)
    got = losses.cauchy_sign_error(x, gamma=0.25)
    due = [np.log(1 + 4 * (1 - 1.4 / np.sqrt(2))), 0.0, np.log(5)]
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)
    for length in (1e-25, 1e25):
        np.testing.assert_allclose(losses.cauchy_sign_error(x * length, gamma=0.25), got, rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        losses.sign_error,
        losses.log_cosh_sign,
        losses.cubed_sign_error,
        losses.absolute_sign_error,
        functools.partial(losses.cauchy_sign_error, gamma=1.0),
    ],
)
def test_zero_is_pulled_to_its_code(function):
    # The code of 0 is +1; a derivative of 0 would leave a zero vector where it is.
    gradient = jax.grad(lambda x: jnp.sum(function(x)))(jnp.zeros((1, 2)))
    assert jnp.all(gradient < -0.1)
