import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models
from quantjax.models import resnet, weights
from tests.models import resnet_files, weight_files

SHORT50 = resnet_files.RESNET50._replace(counts=(1, 2, 1, 1))
SHORT_CIFAR = resnet_files.CIFAR_RESNET18._replace(counts=(1, 2, 1, 1))


def short50(shape, *, dim=None):
    return resnet.build(shape, resnet.STEM, resnet.bottleneck_block, SHORT50.counts, dim)


def short_cifar(shape, *, dim=None):
    return resnet.build(shape, resnet.CIFAR_STEM, resnet.basic_block, SHORT_CIFAR.counts, dim)


# Of each network: what builds it, its tensors, shape of the images, and dim.
CASES = {
    "resnet18": (models.resnet18, resnet_files.RESNET18, (50, 36, 3), None),
    "resnet50": (models.resnet50, resnet_files.RESNET50, (35, 64, 3), None),
    "cifar_resnet18": (models.cifar_resnet18, resnet_files.CIFAR_RESNET18, (18, 15, 3), 5),
    "short50": (short50, SHORT50, (35, 64, 3), None),
    "short_cifar": (short_cifar, SHORT_CIFAR, (18, 15, 3), 5),
}
PUBLIC = ("resnet18", "resnet50", "cifar_resnet18")
MODES = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
load = functools.partial(weights.load, names=resnet.names, unused=resnet.UNUSED)


@functools.cache
def abstract(name, dim=None):
    """Shapes of a network's params and net_state: drawing the values takes long."""
    build, _, shape, _ = CASES[name]
    example = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return jax.eval_shape(build(shape, dim=dim).init, jax.random.key(0), example)


def hollow(architecture):
    """Tensors that take no memory."""
    return {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in resnet_files.shapes(architecture).items()
    }


@pytest.fixture(
    scope="module",
    params=[
        "short50",
        "short_cifar",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("cifar_resnet18", marks=pytest.mark.slow),
    ],
)
def case(request, tmp_path_factory):
    """A network with weights from a file, which is what its tests share."""
    build, architecture, shape, dim = CASES[request.param]
    network, tensors = build(shape, dim=dim), resnet_files.synthetic(architecture)
    kinds = {np.dtype("float32"): "F32", np.dtype("int64"): "I64"}
    content = {key: (kinds[x.dtype], x.shape, x.tobytes()) for key, x in tensors.items()}
    file = tmp_path_factory.mktemp(request.param) / "file"
    file.write_bytes(weight_files.safetensors(content))
    params, net_state = abstract(request.param)
    rng = np.random.default_rng(2)
    last = {}
    if dim is not None:
        depth = tensors["fc.weight"].shape[1]
        last["bottleneck"] = {"kernel": rng.normal(size=(depth, dim)), "bias": rng.normal(size=dim)}
    params, net_state = load(params, net_state, weights.read(file))
    images = resnet.normalize(rng.integers(0, 256, (4, *shape), np.uint8))
    apply = jax.jit(network.apply, static_argnames="train")
    outputs = {
        train: apply(params | last, net_state, images, train=train) for train in (False, True)
    }
    return net_state, tensors, images, last.get("bottleneck"), outputs


def assert_agree(case, train, features, tensors):
    """Compares features and running statistics with those of another implementation."""
    net_state, _, _, last, outputs = case
    y, moved = jax.tree.map(np.asarray, outputs[train])
    due = features if last is None else features @ last["kernel"] + last["bias"]
    assert np.linalg.norm(y - due) < 1e-4 * np.linalg.norm(due)
    before = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, net_state))
    for (path, kept), leaf in zip(before, jax.tree.leaves(moved), strict=True):
        name = resnet.names(jax.tree_util.keystr(path, simple=True, separator="/"))
        np.testing.assert_allclose(leaf, tensors[name], rtol=1e-4, atol=1e-4)
        assert (leaf != kept).all() if train else (leaf == kept).all()


@MODES
def test_features_and_statistics_are_those_of_an_independent_forward_pass(case, train):
    tensors = {key: np.float64(value) for key, value in case[1].items()}
    images = np.float64(case[2]).transpose(0, 3, 1, 2)
    features = resnet_files.forward(images, tensors, resnet_files.numpy_layers(train=train))
    assert_agree(case, train, features, tensors)


@MODES
def test_features_and_statistics_are_those_of_torch(case, train):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.tensor(value) for key, value in case[1].items()}
    images = torch.tensor(np.array(case[2].transpose(0, 3, 1, 2)))
    features = resnet_files.forward(images, tensors, resnet_files.torch_layers(torch, train=train))
    tensors = {key: value.numpy() for key, value in tensors.items()}
    assert_agree(case, train, features.numpy(), tensors)


@pytest.mark.parametrize(
    ("architecture", "entries", "values"),
    [(resnet_files.RESNET18, 122, 11_689_512), (resnet_files.RESNET50, 320, 25_557_032)],
)
def test_files_are_as_large_as_torchvision_documents(architecture, entries, values):
    shapes = resnet_files.shapes(architecture)
    assert len(shapes) == entries
    trained = (
        shape
        for name, shape in shapes.items()
        if not name.split(".")[-1].startswith(("run", "num"))
    )
    assert sum(int(np.prod(shape)) for shape in trained) == values


@pytest.mark.parametrize("name", PUBLIC)
def test_every_tensor_but_the_unused_has_one_target(name):
    targets = jax.tree_util.tree_leaves_with_path(abstract(name, dim=3))
    found = [
        resnet.names(jax.tree_util.keystr(path[1:], simple=True, separator="/"))
        for path, _ in targets
    ]
    assert found.count(None) == 2
    due = {key for key in resnet_files.shapes(CASES[name][1]) if not key.startswith("fc.")}
    due = {key for key in due if not key.endswith("num_batches_tracked")}
    assert sorted(filter(None, found)) == sorted(due)


@pytest.mark.parametrize("path", ["convolutions/0/kernel", "stages/0/0/kernel", "stem"])
def test_a_target_of_another_network_is_refused(path):
    with pytest.raises(ValueError, match=f"'{path}' is no target of a ResNet"):
        resnet.names(path)


@pytest.mark.parametrize(
    ("weights_of", "network_of", "message"),
    [
        (
            "resnet18",
            "resnet50",
            r"network; 165 missing: .*\(from 'layer1.0.conv3.weight'\).*; 23 of another shape",
        ),
        (
            "resnet50",
            "resnet18",
            r"network; 23 of another shape .*; 165 unexpected: 'layer1.0.conv3.weight'",
        ),
        (
            "resnet18",
            "cifar_resnet18",
            r"network; 1 of another shape or kind: stem/convolution/kernel \(from 'conv1.weight'\) "
            r"has shape \(7, 7, 3, 64\), due is \(3, 3, 3, 64\)$",
        ),
    ],
)
def test_weights_of_another_depth_or_stem_are_refused_in_one_line(weights_of, network_of, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(*abstract(network_of, dim=3), hollow(CASES[weights_of][1]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_initial_values_are_torchvisions():
    network = resnet.build((4, 4, 3), resnet.STEM, resnet.basic_block, (1, 0, 0, 0), 7)
    parts = network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    params, net_state = jax.tree.map(np.asarray, parts)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kind = path[-1].key
        if path[0].key == "bottleneck":
            assert leaf.shape == ((64, 7) if kind == "kernel" else (7,))
        elif kind == "kernel":
            due = (2 / (leaf.shape[0] * leaf.shape[1] * leaf.shape[3])) ** 0.5
            np.testing.assert_allclose(leaf.std(), due, rtol=0.05)
        else:
            assert (leaf == (kind == "scale")).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(net_state):
        assert (leaf == (path[-1].key == "var")).all()


def test_running_variance_of_a_single_value_is_its_biased_one():
    stem = resnet.Stem(resnet.Kernel(1, 1, 3), lambda x: x)
    network = resnet.build((1, 1, 2), stem, resnet.basic_block, (0, 0, 0, 0), None)
    x = jnp.ones((1, 1, 1, 2))
    y, state = network.apply(*network.init(jax.random.key(0), x), x, train=True)
    np.testing.assert_array_equal(y, np.zeros((1, 3)))
    np.testing.assert_allclose(state["stem"]["norm"]["var"], 0.9, rtol=1e-6)


def test_nothing_is_pooled_from_beyond_the_border():
    np.testing.assert_array_equal(resnet.max_pool(-jnp.ones((1, 5, 4, 1))), -np.ones((1, 3, 2, 1)))


@pytest.mark.parametrize("name", PUBLIC)
def test_shapes_and_widths_that_cannot_be_are_refused(name):
    build = CASES[name][0]
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(32, 32\)"):
        build((32, 32))
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\), got \(32, 0, 3\)"):
        build((32, 0, 3))
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        build(dim=0)


def test_normalize_centres_and_scales_every_channel():
    y = resnet.normalize(np.asarray([[255, 0, 128]], np.uint8))
    due = [[(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]]
    np.testing.assert_allclose(y, due, rtol=1e-5)
