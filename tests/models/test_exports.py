"""Every network becomes programs for CPUs, CUDA GPUs and TPUs that embed as the network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import index, models
from quantjax.quantizers import BinaryCodec
from tests.models.test_inputs import NETWORKS

QUICK = "convnet", "mlp", "patch_resnet"
CASES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETWORKS]


def save_and_load(network, shape, folder):
    """A network's weights, its embedding function, and its encoder."""
    example = jnp.zeros((1, *shape))
    weights = jax.jit(network.init)(jax.random.key(0), example)

    def embed(weights, x):
        return network.apply(*weights, x / jnp.float32(255), train=False)[0]

    dim = jax.eval_shape(embed, weights, example).shape[1]
    index.save_encoder(
        folder,
        embed=embed,
        weights=weights,
        codec=BinaryCodec(dim),
        example=jax.ShapeDtypeStruct(shape, np.uint8),
    )
    return weights, jax.jit(embed), index.load_encoder(folder)


@pytest.mark.parametrize("name", CASES)
def test_every_network_embeds_the_same_from_its_programs(name, rng, tmp_path):
    build, shape = NETWORKS[name]
    weights, embed, encoder = save_and_load(build(), shape, tmp_path)
    x = rng.integers(0, 256, (8, *shape), dtype=np.uint8)
    due = np.asarray(embed(weights, x))
    np.testing.assert_allclose(encoder.embed(x), due, atol=1e-5 * np.abs(due).max())
    assert encoder.manifest["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize(
    "wrap",
    [lambda network: models.microbatched(network, 4), lambda n: models.in_precision(n, "bfloat16")],
)
def test_microbatches_and_bfloat16_export_too(wrap, rng, tmp_path):
    build, shape = NETWORKS["convnet"]
    weights, embed, encoder = save_and_load(wrap(build()), shape, tmp_path)
    x = rng.integers(0, 256, (8, *shape), dtype=np.uint8)
    np.testing.assert_allclose(encoder.embed(x), embed(weights, x), atol=1e-2)


@pytest.mark.by_default("cpu-*", "cuda-*")
@pytest.mark.parametrize(("platform", "has_ours"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_programs_for_cpus_have_our_convolution(platform, has_ours):
    network = models.cifar_resnet18()
    weights = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    x = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    program = jax.jit(lambda weights, x: network.apply(*weights, x, train=False)[0])
    text = jax.export.export(program, platforms=(platform,))(weights, x).mlir_module()
    # Winograd's algorithm loops over parts of the batch.
    assert ("stablehlo.while" in text) == has_ours
