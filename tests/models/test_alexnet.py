import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models
from quantjax.models import alexnet, weights
from tests.models import weight_files

RNG = np.random.default_rng(0)
SHAPE = (99, 131, 3)
CHANNELS = (4, 8, 6, 6, 4)
SIZES = (11, 5, 3, 3, 3)
HIDDEN = 7
NAMES = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4"]
# Shapes of published weights, in order.
PUBLISHED = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3)]
PUBLISHED += [(256, 256, 3, 3), (4096, 9216), (4096, 4096)]
X = RNG.normal(size=(2, *SHAPE)).astype(np.float32) * 20


def small(dim=None):
    """The network with few channels."""
    pairs = zip(alexnet.TORCHVISION, CHANNELS, strict=True)
    table = tuple(row._replace(channels=channels) for row, channels in pairs)
    return models.from_nnx(functools.partial(alexnet.AlexNet, SHAPE, table, HIDDEN, dim))


def shapes(network, shape=SHAPE):
    return jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    )


@functools.cache
def synthetic():
    tensors, depth = {}, 3
    for layer, channels, size in zip(NAMES, CHANNELS, SIZES, strict=False):
        shape = (channels, depth, size, size)
        tensors[f"{layer}.weight"] = RNG.normal(0, (depth * size**2) ** -0.5, shape)
        tensors[f"{layer}.bias"] = RNG.normal(0, 0.3, channels)
        depth = channels
    for layer, width in zip(NAMES[5:], (2 * 3 * depth, HIDDEN), strict=True):
        tensors[f"{layer}.weight"] = RNG.normal(0, width**-0.5, (HIDDEN, width))
        tensors[f"{layer}.bias"] = RNG.normal(1, 0.3, HIDDEN)
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def convolve(x, kernel, strides, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = kernel.shape[-1]
    height, width = ((size - side) // strides + 1 for size in x.shape[2:])
    y = np.zeros((len(x), len(kernel), height, width))
    for i, j in np.ndindex(height, width):
        patch = x[:, :, strides * i : strides * i + side, strides * j : strides * j + side]
        y[:, :, i, j] = np.tensordot(patch, kernel, axes=([1, 2, 3], [1, 2, 3]))
    return y


def pooled(x):
    height, width = ((size - 3) // 2 + 1 for size in x.shape[2:])
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        y[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
    return y


@functools.cache
def by_hand():
    t = {key: np.float64(value) for key, value in synthetic().items()}
    x = np.float64(X).transpose(0, 3, 1, 2)
    for number, layer in enumerate(NAMES[:5]):
        padding = (2, 2, 1, 1, 1)[number]
        x = convolve(x, t[f"{layer}.weight"], 1 if number else 4, padding)
        x = np.maximum(x + t[f"{layer}.bias"][:, None, None], 0)
        if number in (0, 1, 4):
            x = pooled(x)
    x = x.reshape(len(x), -1)
    for layer in NAMES[5:]:
        x = np.maximum(x @ t[f"{layer}.weight"].T + t[f"{layer}.bias"], 0)
    return x


def test_features_are_those_of_an_independent_forward_pass(tmp_path):
    content = {key: ("F32", value.shape, value.tobytes()) for key, value in synthetic().items()}
    (tmp_path / "file").write_bytes(weight_files.safetensors(content))
    network, names = small(), alexnet.torchvision_names(2, 3)
    parts = weights.load(*shapes(network), weights.read(tmp_path / "file"), names)
    y, state = network.apply(*parts, X, train=False)
    assert (by_hand() > 0).mean() > 0.3
    np.testing.assert_allclose(y, by_hand(), rtol=1e-4, atol=1e-4)
    assert state == {}


def test_published_weights_have_the_shapes_of_the_network():
    tensors = {f"{layer}.weight": each for layer, each in zip(NAMES, PUBLISHED, strict=True)}
    params, state = shapes(models.alexnet_torchvision(), (224, 224, 3))
    assert state == {}
    find, seen = alexnet.torchvision_names(6, 6), set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        source = find(path)
        name = source if isinstance(source, str) else source.name
        seen.add(name)
        if path.endswith("kernel"):
            given = tensors[name]
            assert np.prod(given) == np.prod(leaf.shape)
            assert (given[0], given[2:]) == (leaf.shape[-1], leaf.shape[:-2])
    assert seen == {f"{layer}.{leaf}" for layer in NAMES for leaf in ("weight", "bias")}


def test_a_bottleneck_multiplies_the_features_and_keeps_its_values():
    network = small(dim=2)
    params, state = shapes(network)
    layer = {"kernel": RNG.normal(size=(HIDDEN, 2)), "bias": RNG.normal(size=2)}
    params["bottleneck"] = jax.tree.map(np.float32, layer)
    params, state = weights.load(params, state, synthetic(), alexnet.torchvision_names(2, 3))
    y, _ = network.apply(params, state, X, train=False)
    due = by_hand() @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(y, due, rtol=1e-3, atol=1e-3)


def test_dropout_needs_a_key_and_follows_it():
    network = small()
    params, state = weights.load(*shapes(network), synthetic(), alexnet.torchvision_names(2, 3))
    first, second = (
        network.apply(params, state, X, train=True, key=jax.random.key(i))[0] for i in (0, 1)
    )
    assert (first != second).any()
    assert (first == 0).mean() > 0.2


def test_weights_of_another_size_of_image_are_refused():
    names = alexnet.torchvision_names(5, 5)
    with pytest.raises(ValueError, match=r"dense/0/kernel \(from 'classifier.1\.weight'") as caught:
        weights.load(*shapes(small()), synthetic(), names)
    assert "\n" not in str(caught.value)


def test_shapes_that_cannot_be_are_refused():
    build = models.alexnet_torchvision
    with pytest.raises(ValueError, match=r"images of shape \(32, 32, 3\) are too small"):
        build((32, 32, 3))
    with pytest.raises(ValueError, match=r"images of shape \(8, 227, 3\) are too small"):
        build((8, 227, 3))
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(227, 227\)"):
        build((227, 227))
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        build(dim=0)
