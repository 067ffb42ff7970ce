"""The kernel's gradient by products of shifted images is the compiler's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from quantjax.models import strided


@pytest.mark.parametrize("pixels", [strided.PIXELS, 24, 1])
@pytest.mark.parametrize(
    ("height", "width", "size", "strides"),
    [(8, 6, 3, 2), (7, 5, 3, 2), (9, 8, 5, 3), (6, 7, 1, 2), (1, 3, 3, 2)],
)
def test_it_is_the_compilers_convolution(height, width, size, strides, pixels, rng, monkeypatch):
    monkeypatch.setattr(strided, "PIXELS", pixels)
    x = jnp.asarray(rng.normal(size=(6, height, width, 5)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 5, 7)), jnp.float32)

    def compilers(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def value_and_pullback(function):
        value, pullback = jax.vjp(function, x, kernel)
        weights = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        return value, *pullback(weights)

    ours = jax.jit(lambda: value_and_pullback(lambda *pair: strided.convolve(*pair, strides)))()
    for one, due in zip(ours, jax.jit(lambda: value_and_pullback(compilers))(), strict=True):
        assert one.shape == due.shape
        np.testing.assert_allclose(one, due, atol=2e-6 * np.abs(due).max())
