import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models
from quantjax.models.small_networks import space_to_depth

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 12, 2)), jnp.float32)


def build(patch=2, channels=(3, 5), num_blocks=(1, 0), dim=4):
    return models.patch_resnet(
        (8, 12, 2), patch=patch, channels=channels, num_blocks=num_blocks, dim=dim
    )


def convolve(x, kernel, strides):
    """3x3, "SAME": the odd row of zeros stands behind where the stride is 2 and sizes are even."""
    height, width = x.shape[1] // strides, x.shape[2] // strides
    before = 1 if strides == 1 else 0
    x = np.pad(x, ((0, 0), (before, 2 - before), (before, 2 - before), (0, 0)))
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            patch = x[:, strides * i : strides * i + 3, strides * j : strides * j + 3]
            y[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return y


def normalize(x, params, state, train):
    axes = tuple(range(x.ndim - 1))
    mean, var = (x.mean(axes), x.var(axes)) if train else (state["mean"], state["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def rectified(x, params, state, train, strides=1):
    x = convolve(x, params["convolution"]["kernel"], strides)
    return np.maximum(normalize(x, params["norm"], state["norm"], train), 0)


@pytest.mark.parametrize("train", [True, False])
def test_patch_resnet_is_patches_convolutions_and_residuals(train):
    network = build()
    params, state = network.init(jax.random.key(0), X)
    key = jax.random.key(1)
    params, state = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.uniform(key, leaf.shape), (params, state)
    )
    y, _ = network.apply(params, state, X, train=train)
    params, state = jax.tree.map(np.float64, (params, state))
    layers, states = params["layers"], state["layers"]
    due = np.zeros((3, 4, 6, 8))
    for i, j in np.ndindex(2, 2):
        due[..., 4 * i + 2 * j : 4 * i + 2 * j + 2] = X[:, i::2, j::2]
    due = rectified(due, layers["0"], states["0"], train)
    inner = rectified(due, layers["1"]["first"], states["1"]["first"], train)
    due = due + rectified(inner, layers["1"]["second"], states["1"]["second"], train)
    due = rectified(due, layers["2"], states["2"], train, strides=2)
    due = normalize(due.mean((1, 2)), params["norm"], state["norm"], train)
    due = due @ params["bottleneck"]["kernel"] + params["bottleneck"]["bias"]
    np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-4)


def test_training_moves_the_statistics_and_embedding_does_not():
    network = build()
    params, state = network.init(jax.random.key(0), X)
    _, trained = network.apply(params, state, X, train=True)
    _, embedded = network.apply(params, state, X, train=False)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), trained, state)))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), embedded, state)))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_space_to_depth_keeps_every_pixel(patch):
    y = space_to_depth(X, patch)
    assert y.shape == (3, 8 // patch, 12 // patch, 2 * patch**2)
    np.testing.assert_array_equal(y[1, 1, 0, :2], X[1, patch, 0])
    np.testing.assert_array_equal(np.sort(y.ravel()), np.sort(X.ravel()))


@pytest.mark.parametrize("patch", [0, 3, 8])
def test_a_patch_that_does_not_fit_is_refused(patch):
    with pytest.raises(ValueError, match=f"got {patch} for 8x12 pixels"):
        build(patch=patch)


def test_a_number_of_blocks_for_every_stage_is_due():
    with pytest.raises(ValueError, match=r"one entry for each of 2 channels, got \(1,\)"):
        build(num_blocks=(1,))
