"""Every network names the given and the expected shape in a one-line error for wrong inputs."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from quantjax import models

# Of each network: what builds it, and the shape of its images.
NETWORKS = {
    "alexnet_caffe": (lambda: models.alexnet_caffe((99, 131, 3)), (99, 131, 3)),
    "alexnet_torchvision": (lambda: models.alexnet_torchvision((99, 131, 3)), (99, 131, 3)),
    "cifar_resnet18": (models.cifar_resnet18, (32, 32, 3)),
    "convnet": (
        lambda: models.convnet((12, 8, 3), channels=(4,), kernel_sizes=(3,), hidden=5, dim=2),
        (12, 8, 3),
    ),
    "efficientnet_lite0": (lambda: models.efficientnet_lite0((32, 48, 3)), (32, 48, 3)),
    "mlp": (lambda: models.mlp((12, 8, 3), hidden=(5,), dim=2), (12, 8, 3)),
    "patch_resnet": (
        lambda: models.patch_resnet((12, 8, 3), patch=2, channels=(4,), num_blocks=(1,), dim=2),
        (12, 8, 3),
    ),
    "resnet18": (lambda: models.resnet18((64, 48, 3)), (64, 48, 3)),
    "resnet50": (lambda: models.resnet50((64, 48, 3)), (64, 48, 3)),
}
# ResNet-50 is built as ResNet-18 is, and takes twice as long to trace.
every_network = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet50")) for name in NETWORKS],
)
# What people feed by mistake.
MISTAKES = {
    "no batch": lambda height, width, depth: (height, width, depth),
    "another height": lambda height, width, depth: (2, height + 2, width, depth),
    "another width": lambda height, width, depth: (2, height, width - 2, depth),
    "grey": lambda height, width, depth: (2, height, width, 1),
    "an alpha channel": lambda height, width, depth: (2, height, width, depth + 1),
    "channels first": lambda height, width, depth: (2, depth, height, width),
    "flattened": lambda height, width, depth: (2, height * width * depth),
    "views": lambda height, width, depth: (2, 5, height, width, depth),
}


@functools.cache
def network(name):
    """A network, and the shapes of its params and net_state."""
    build, shape = NETWORKS[name]
    built = build()
    example = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return built, jax.eval_shape(built.init, jax.random.key(0), example)


def assert_refused(function, *args, came, due):
    with pytest.raises(
        ValueError, match=re.escape(f"must have shape [B, *{due}], got {came}")
    ) as e:
        jax.eval_shape(function, *args)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 160


@pytest.mark.parametrize("mistake", MISTAKES)
@every_network
def test_images_of_another_shape_are_refused_in_one_line(name, mistake):
    built, parts = network(name)
    due = NETWORKS[name][1]
    x = jax.ShapeDtypeStruct(MISTAKES[mistake](*due), jnp.float32)
    apply = functools.partial(built.apply, train=False)
    assert_refused(apply, *parts, x, came=x.shape, due=due)


@every_network
def test_an_example_of_another_shape_is_refused_in_one_line(name):
    due = NETWORKS[name][1]
    x = jax.ShapeDtypeStruct((2, *due[:2], due[2] + 1), jnp.float32)
    assert_refused(network(name)[0].init, jax.random.key(0), x, came=x.shape, due=due)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 2, 3), (2, 6, 1)])
def test_features_of_another_shape_are_refused_in_one_line(shape):
    built = models.mlp((6,), hidden=(5,), dim=2)
    params, state = built.init(jax.random.key(0), jnp.zeros((2, 6)))
    apply = functools.partial(built.apply, params, state, train=True)
    assert_refused(apply, jnp.zeros(shape), came=shape, due=(6,))
