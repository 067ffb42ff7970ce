"""Half precision inside, float32 outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models, train
from quantjax.run import parallel
from tests import toy

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 32, 32, 3)), jnp.float32)
NETWORKS = {
    "convnet": lambda: models.convnet(
        (32, 32, 3), channels=(8, 16), kernel_sizes=(3, 3), hidden=16, dim=6
    ),
    "cifar_resnet18": lambda: models.cifar_resnet18((32, 32, 3), dim=6),
    "patch_resnet": lambda: models.patch_resnet(
        (32, 32, 3), patch=2, channels=(8, 16), num_blocks=(1, 1), dim=6
    ),
    "efficientnet_lite0": lambda: models.efficientnet_lite0((32, 32, 3)),
    "resnet18": lambda: models.resnet18((32, 32, 3)),
}

DEEP = "cifar_resnet18", "efficientnet_lite0", "resnet18"


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in DEEP else ()) for name in NETWORKS],
)
def test_params_statistics_outputs_and_gradients_stay_float32(name):
    network = models.in_precision(NETWORKS[name](), "bfloat16")
    params, state = jax.eval_shape(network.init, jax.random.key(0), X)

    def loss(params, state, x):
        y, state = network.apply(params, state, x, train=True, key=jax.random.key(0))
        return jnp.sum(jnp.square(y)), (y, state)

    gradients, (y, after) = jax.eval_shape(jax.grad(loss, has_aux=True), params, state, X)
    for tree in (params, gradients, y):
        assert dtypes(tree) == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    text = str(jax.make_jaxpr(loss)(params, state, X))
    for kind in ("conv_general_dilated[", "dot_general["):
        layers = [line for line in text.splitlines() if kind in line]
        assert layers or kind == "dot_general["
        assert all("bf16" in line.split("=")[0] for line in layers), layers


@pytest.mark.parametrize("name", ["convnet", "patch_resnet"])
def test_values_and_statistics_are_near_those_of_float32(name):
    network = NETWORKS[name]()
    params, state = jax.jit(network.init)(jax.random.key(0), X)
    (due, stats), (found, half_stats) = (
        jax.jit(lambda p, s, x, each=each: each.apply(p, s, x, train=True))(params, state, X)
        for each in (network, models.in_precision(network, "bfloat16"))
    )
    scale = float(jnp.abs(due).max())
    assert 0 < float(jnp.abs(found - due).max()) < 0.1 * scale
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.05, rtol=0.05), half_stats, stats
    )


@pytest.mark.slow
def test_a_toy_run_in_half_precision_learns_as_well():
    mesh = parallel.data_mesh(jax.devices()[:1])
    losses = []
    for name in ("float32", "bfloat16"):
        method = toy.dqn(network=models.in_precision(toy.network(), name))
        result = train.fit(toy.experiment(method, num_epochs=6), mesh=mesh)
        assert dtypes(result.state.params) == dtypes(result.state.opt) == {jnp.dtype("float32")}
        losses.append(result.history[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_float32_is_the_network_itself_and_other_words_are_refused():
    network = toy.network()
    assert models.in_precision(network, "float32") is network
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'float16'"):
        models.in_precision(network, "float16")
