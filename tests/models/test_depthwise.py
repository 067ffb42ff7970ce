"""A sum of shifted images is the compiler's grouped convolution, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.models.depthwise import depthwise, grouped


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 7), (5, 2), (1, 1)])
def test_it_is_the_grouped_convolution(height, width, strides, size, rng):
    x = np.float32(rng.normal(size=(3, height, width, 4)))
    kernel = np.float32(rng.normal(size=(size, size, 1, 4)))

    @functools.partial(jax.jit, static_argnames="function")
    def value_and_pullback(function, x, kernel):
        value, pullback = jax.vjp(functools.partial(function, strides=strides), x, kernel)
        weights = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        return value, *pullback(weights)

    ours, due = (value_and_pullback(each, x, kernel) for each in (depthwise, grouped))
    for one, other in zip(ours, due, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_grouped_convolution_is_left_on_a_cpu():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    compiled = jax.jit(jax.grad(lambda x, kernel: depthwise(x, kernel, strides=2).sum(), (0, 1)))
    assert " convolution(" not in compiled.lower(x, kernel).compile().as_text()
