import jax
import numpy as np

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
