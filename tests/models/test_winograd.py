"""Fewer products give the compiler's convolution, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from quantjax.models import winograd

NUMBERS = ("NHWC", "HWIO", "NHWC")


def compilers(x, kernel, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=NUMBERS, **options
    )


def arrays(rng, shape, channels, size=3):
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return x, jnp.asarray(rng.normal(size=(size, size, shape[3], channels)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def value_and_pullback(function, x, kernel):
    value, pullback = jax.vjp(function, x, kernel)
    weights = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
    return value, *pullback(weights)


@pytest.mark.parametrize("values", [winograd.VALUES, 300, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 4), (1, 3)])
def test_it_is_the_compilers_convolution(height, width, values, rng, monkeypatch):
    monkeypatch.setattr(winograd, "VALUES", values)
    x, kernel = arrays(rng, (6, height, width, 5), 7)
    ours = value_and_pullback(lambda *pair: winograd.convolve(*pair), x, kernel)
    for one, due in zip(ours, value_and_pullback(compilers, x, kernel), strict=True):
        assert one.shape == due.shape
        np.testing.assert_allclose(one, due, atol=2e-6 * np.abs(due).max())


def test_many_channels_lose_no_digits(rng):
    x, kernel = arrays(rng, (8, 8, 8, 256), 64)
    exact = value_and_pullback(compilers, np.float64(x), np.float64(kernel))
    for one, due in zip(value_and_pullback(winograd.convolve, x, kernel), exact, strict=True):
        np.testing.assert_allclose(one, due, atol=4e-6 * np.abs(due).max())


@pytest.mark.parametrize("wrap", [jax.vmap, jax.pmap])
def test_transformed_equals_one_by_one(wrap, rng):
    x, kernel = arrays(rng, (4, 6, 5, 3), 2)
    x, kernel = x[:, None], jnp.stack([kernel, 2 * kernel, -kernel, kernel + 1])
    due = [value_and_pullback(compilers, *pair) for pair in zip(x, kernel, strict=True)]
    ours = wrap(functools.partial(value_and_pullback, winograd.convolve))(x, kernel)
    for one, other in zip(ours, map(jnp.stack, zip(*due, strict=True)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_a_batch_cut_over_devices_equals_one_device(rng):
    x, kernel = arrays(rng, (16, 6, 6, 3), 4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    everywhere = jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))
    ours = value_and_pullback(winograd.convolve, cut, everywhere)
    for one, due in zip(ours, value_and_pullback(compilers, x, kernel), strict=True):
        np.testing.assert_allclose(one, due, atol=1e-5 * np.abs(due).max())
