"""Our convolutions give the compiler's, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from quantjax.models import cpu_convolution
from quantjax.models.cpu_convolution import strided, winograd
from quantjax.models.layers import depthwise, grouped

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


@pytest.mark.by_default("8-6-300", "7-4-262144", "1-3-1")
@pytest.mark.parametrize("values", [cpu_convolution.VALUES, 300, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 4), (1, 3)])
def test_winograd_is_the_compilers_convolution(height, width, values, rng, monkeypatch):
    monkeypatch.setattr(cpu_convolution, "VALUES", values)
    x, kernel = arrays(rng, (6, height, width, 5), 7)
    # A function of its own, so that each number of values is compiled anew.
    ours = value_and_pullback(lambda *pair: winograd(*pair), x, kernel)
    for one, due in zip(ours, value_and_pullback(compilers, x, kernel), strict=True):
        assert one.shape == due.shape
        np.testing.assert_allclose(one, due, atol=2e-6 * np.abs(due).max())


def test_many_channels_of_winograd_lose_no_digits(rng):
    x, kernel = arrays(rng, (8, 8, 8, 256), 64)
    exact = value_and_pullback(compilers, np.float64(x), np.float64(kernel))
    for one, due in zip(value_and_pullback(winograd, x, kernel), exact, strict=True):
        np.testing.assert_allclose(one, due, atol=4e-6 * np.abs(due).max())


@pytest.mark.parametrize("wrap", [jax.vmap, jax.pmap])
def test_winograd_transformed_equals_one_by_one(wrap, rng):
    x, kernel = arrays(rng, (4, 6, 5, 3), 2)
    x, kernel = x[:, None], jnp.stack([kernel, 2 * kernel, -kernel, kernel + 1])
    due = [value_and_pullback(compilers, *pair) for pair in zip(x, kernel, strict=True)]
    ours = wrap(functools.partial(value_and_pullback, winograd))(x, kernel)
    for one, other in zip(ours, map(jnp.stack, zip(*due, strict=True)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_a_batch_of_winograd_cut_over_devices_equals_one_device(rng):
    x, kernel = arrays(rng, (16, 6, 6, 3), 4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    everywhere = jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))
    ours = value_and_pullback(winograd, cut, everywhere)
    for one, due in zip(ours, value_and_pullback(compilers, x, kernel), strict=True):
        np.testing.assert_allclose(one, due, atol=1e-5 * np.abs(due).max())


@pytest.mark.by_default("*-24", "8-6-3-2-*", "9-8-5-3-1")
@pytest.mark.parametrize("pixels", [cpu_convolution.PIXELS, 24, 1])
@pytest.mark.parametrize(
    ("height", "width", "size", "strides"),
    [(8, 6, 3, 2), (7, 5, 3, 2), (9, 8, 5, 3), (6, 7, 1, 2), (1, 3, 3, 2)],
)
def test_strided_is_the_compilers_convolution(
    height, width, size, strides, pixels, rng, monkeypatch
):
    monkeypatch.setattr(cpu_convolution, "PIXELS", pixels)
    x, kernel = arrays(rng, (6, height, width, 5), 7, size)
    half = size // 2
    due = functools.partial(compilers, strides=(strides,) * 2, padding=[(half, half)] * 2)
    ours = value_and_pullback(lambda *pair: strided(*pair, strides), x, kernel)
    for one, other in zip(ours, value_and_pullback(due, x, kernel), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


@pytest.mark.by_default("8-7-1-5", "8-7-2-3", "5-2-2-5", "5-2-1-3", "1-1-7-3", "8-7-7-5")
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("strides", [1, 2, 7])
@pytest.mark.parametrize(("height", "width"), [(8, 7), (5, 2), (1, 1)])
def test_depthwise_is_the_grouped_convolution(height, width, strides, size, rng):
    x = jnp.asarray(rng.normal(size=(3, height, width, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
    ours, due = (
        value_and_pullback(functools.partial(each, strides=strides), x, kernel)
        for each in (depthwise, grouped)
    )
    for one, other in zip(ours, due, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_grouped_convolution_is_left_on_a_cpu():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    compiled = jax.jit(jax.grad(lambda x, kernel: depthwise(x, kernel, strides=2).sum(), (0, 1)))
    assert " convolution(" not in compiled.lower(x, kernel).compile().as_text()
