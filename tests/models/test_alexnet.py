import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from quantjax import models
from quantjax.models import alexnet, weights
from tests.models import weight_files

RNG = np.random.default_rng(0)
SHAPE = (99, 131, 3)
CHANNELS = (4, 8, 6, 6, 4)
SIZES = (11, 5, 3, 3, 3)
HIDDEN = 7
# Of each network: its table, names by published name of its layers, padding of the first
# convolution, groups, whether it normalises, and shapes of published weights, in order.
CASES = {
    "caffe": (
        alexnet.CAFFE,
        alexnet.caffe_names,
        ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"],
        (0, (1, 2, 1, 2, 2), True),
        [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)],
    ),
    "torchvision": (
        alexnet.TORCHVISION,
        alexnet.torchvision_names,
        [f"features.{i}" for i in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4"],
        (2, (1, 1, 1, 1, 1), False),
        [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)],
    ),
}
BUILDERS = {
    "caffe": (models.alexnet_caffe, (227, 227, 3)),
    "torchvision": (models.alexnet_torchvision, (224, 224, 3)),
}
X = RNG.normal(size=(2, *SHAPE)).astype(np.float32) * 20


def small(case, dim=None):
    """The network with few channels."""
    table = tuple(
        row._replace(channels=channels)
        for row, channels in zip(CASES[case][0], CHANNELS, strict=True)
    )
    return models.from_nnx(functools.partial(alexnet.AlexNet, SHAPE, table, HIDDEN, dim))


def shapes(network, shape=SHAPE):
    return jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    )


def synthetic(case):
    _, _, layers, (_, groups, _), _ = CASES[case]
    tensors, depth = {}, 3
    for layer, channels, size, group in zip(
        layers, CHANNELS, (11, 5, 3, 3, 3), groups, strict=False
    ):
        shape = (channels, depth // group, size, size)
        tensors[f"{layer}.weight"] = RNG.normal(0, (depth * size**2) ** -0.5, shape)
        tensors[f"{layer}.bias"] = RNG.normal(0, 0.3, channels)
        depth = channels
    for layer, width in zip(layers[5:], (2 * 3 * depth, HIDDEN), strict=True):
        tensors[f"{layer}.weight"] = RNG.normal(0, width**-0.5, (HIDDEN, width))
        tensors[f"{layer}.bias"] = RNG.normal(1, 0.3, HIDDEN)
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def convolve(x, kernel, strides, padding, groups):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = kernel.shape[-1]
    height, width = ((size - side) // strides + 1 for size in x.shape[2:])
    y = np.zeros((len(x), len(kernel), height, width))
    ins, outs = kernel.shape[1], len(kernel) // groups
    for group in range(groups):
        part = x[:, group * ins : (group + 1) * ins]
        weight = kernel[group * outs : (group + 1) * outs]
        for i, j in np.ndindex(height, width):
            patch = part[:, :, strides * i : strides * i + side, strides * j : strides * j + side]
            y[:, group * outs : (group + 1) * outs, i, j] = np.tensordot(
                patch, weight, axes=([1, 2, 3], [1, 2, 3])
            )
    return y


def normalized(x):
    y = np.zeros_like(x)
    for channel in range(x.shape[1]):
        around = x[:, max(channel - 2, 0) : channel + 3]
        y[:, channel] = x[:, channel] / (1 + 1e-4 * (around**2).sum(1) / 5) ** 0.75
    return y


def pooled(x):
    height, width = ((size - 3) // 2 + 1 for size in x.shape[2:])
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        y[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
    return y


def by_hand(case, tensors):
    _, _, layers, (first_padding, groups, is_normalized), _ = CASES[case]
    t = {key: np.float64(value) for key, value in tensors.items()}
    x = np.float64(X).transpose(0, 3, 1, 2)
    for number, layer in enumerate(layers[:5]):
        padding = (first_padding, 2, 1, 1, 1)[number]
        x = convolve(x, t[f"{layer}.weight"], 1 if number else 4, padding, groups[number])
        x = np.maximum(x + t[f"{layer}.bias"][:, None, None], 0)
        if is_normalized and number < 2:
            x = normalized(x)
        if number in (0, 1, 4):
            x = pooled(x)
    x = x.reshape(len(x), -1)
    for layer in layers[5:]:
        x = np.maximum(x @ t[f"{layer}.weight"].T + t[f"{layer}.bias"], 0)
    return x


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_an_independent_forward_pass(case, tmp_path):
    tensors = synthetic(case)
    content = {key: ("F32", value.shape, value.tobytes()) for key, value in tensors.items()}
    (tmp_path / "file").write_bytes(weight_files.safetensors(content))
    network = small(case)
    parts = weights.load(*shapes(network), weights.read(tmp_path / "file"), CASES[case][1](2, 3))
    y, state = network.apply(*parts, X, train=False)
    due = by_hand(case, tensors)
    assert (due > 0).mean() > 0.3
    np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-4)
    assert state == {}


def test_local_response_norm_has_a_gradient_at_rest_and_far_out():
    x = jnp.asarray(RNG.normal(size=(2, 1, 1, 7)) * 100, jnp.float32)
    check_grads(alexnet.local_response_norm, (x,), order=1, modes=["rev"], eps=1.0, rtol=1e-2)
    gradient = jax.jit(jax.grad(lambda x: alexnet.local_response_norm(x).sum()))
    np.testing.assert_array_equal(gradient(jnp.zeros((1, 1, 1, 7))), np.ones((1, 1, 1, 7)))
    assert jnp.isfinite(gradient(x * 1e4)).all()


@pytest.mark.parametrize("case", CASES)
def test_published_weights_have_the_shapes_of_the_network(case):
    _, names, layers, _, published = CASES[case]
    build, shape = BUILDERS[case]
    due = [*published, (4096, 9216), (4096, 4096)]
    tensors = {f"{layer}.weight": each for layer, each in zip(layers, due, strict=True)}
    params, state = shapes(build(), shape)
    assert state == {}
    find, seen = names(6, 6), set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        source = find(path)
        name = source if isinstance(source, str) else source.name
        seen.add(name)
        if path.endswith("kernel"):
            given = tensors[name]
            assert np.prod(given) == np.prod(leaf.shape)
            assert (given[0], given[2:]) == (leaf.shape[-1], leaf.shape[:-2])
    assert seen == {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}


@pytest.mark.parametrize("case", CASES)
def test_a_bottleneck_multiplies_the_features_and_keeps_its_values(case):
    tensors = synthetic(case)
    network = small(case, dim=2)
    params, state = shapes(network)
    layer = {"kernel": RNG.normal(size=(HIDDEN, 2)), "bias": RNG.normal(size=2)}
    params["bottleneck"] = jax.tree.map(np.float32, layer)
    params, state = weights.load(params, state, tensors, CASES[case][1](2, 3))
    y, _ = network.apply(params, state, X, train=False)
    due = by_hand(case, tensors) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(y, due, rtol=1e-3, atol=1e-3)


def test_dropout_needs_a_key_and_follows_it():
    network = small("caffe")
    params, state = weights.load(*shapes(network), synthetic("caffe"), alexnet.caffe_names(2, 3))
    first, second = (
        network.apply(params, state, X, train=True, key=jax.random.key(i))[0] for i in (0, 1)
    )
    assert (first != second).any()
    assert (first == 0).mean() > 0.2


def test_weights_of_another_size_of_image_are_refused():
    network = small("caffe")
    with pytest.raises(ValueError, match=r"dense/0/kernel \(from 'fc6\.weight'\) ") as caught:
        weights.load(*shapes(network), synthetic("caffe"), alexnet.caffe_names(5, 5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [models.alexnet_caffe, models.alexnet_torchvision])
def test_shapes_that_cannot_be_are_refused(build):
    with pytest.raises(ValueError, match=r"images of shape \(32, 32, 3\) are too small"):
        build((32, 32, 3))
    with pytest.raises(ValueError, match=r"images of shape \(8, 227, 3\) are too small"):
        build((8, 227, 3))
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(227, 227\)"):
        build((227, 227))
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        build(dim=0)


def test_images_are_prepared_as_published():
    image = np.asarray([[255, 0, 128]], np.uint8)
    np.testing.assert_allclose(alexnet.caffe_images(image), [[128 - 104, -117, 255 - 123]])
