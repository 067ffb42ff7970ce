"""A layer with our faster convolution computes the same as with the compiler's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from quantjax.models import layers


def layer(in_features, channels, **options):
    options = {"kernel_size": (3, 3), "padding": 1, **options}

    def build(**how):
        return nnx.Conv(in_features, channels, rngs=nnx.Rngs(0), **options, **how)

    return build(conv_general_dilated=layers.conv_general_dilated), build()


# How many of its own the compiler has left to it, forward and backward.
LAYERS = {
    "padding 1": (64, 32, {}, 0),
    "SAME": (32, 32, {"padding": "SAME", "use_bias": False}, 0),
    "stride 2": (32, 64, {"strides": 2}, 2),
    "stride 3": (32, 64, {"strides": 3}, 2),
    "stride 2, 1x1": (32, 64, {"kernel_size": (1, 1), "padding": 0, "strides": 2}, 2),
    "stride 2, SAME": (32, 64, {"strides": 2, "padding": "SAME"}, 3),
    "strides of two kinds": (32, 64, {"strides": (2, 1)}, 3),
    "VALID": (32, 32, {"padding": "VALID"}, 3),
    "padding 2": (32, 32, {"padding": 2}, 3),
    "5x5": (32, 32, {"kernel_size": (5, 5), "padding": "SAME"}, 3),
    "few in": (3, 32, {}, 3),
    "few out": (32, 8, {}, 3),
    "groups": (64, 32, {"feature_group_count": 2}, 3),
    "dilated kernel": (32, 32, {"kernel_dilation": 2}, 3),
    "dilated images": (32, 32, {"input_dilation": 2}, 3),
    "bfloat16": (32, 32, {"dtype": jnp.bfloat16}, 3),
}


@pytest.mark.by_default("padding 1", "stride 2*", "few in", "groups", "dilated kernel", "bfloat16")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_it_gave(name, rng):
    depth, channels, options, left = LAYERS[name]
    ours, due = layer(depth, channels, **options)
    x = jnp.asarray(rng.normal(size=(2, 7, 6, depth)), jnp.float32)
    graphdef, state = nnx.split(ours)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(graphdef, state, x):
        def loss(state, x):
            y = nnx.merge(graphdef, state)(x)
            return jnp.sum(jnp.sin(jnp.float32(y))), y

        return jax.grad(loss, (0, 1), has_aux=True)(state, x)

    one = value_and_gradients(graphdef, state, x)
    other = value_and_gradients(*nnx.split(due), x)
    tolerance = 1e-4 if ours.dtype is None else 0.05
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float32(a), np.float32(b), atol=tolerance * np.abs(b).max())
    jaxpr = str(jax.make_jaxpr(functools.partial(value_and_gradients, graphdef))(state, x))
    text = value_and_gradients.lower(graphdef, state, x).as_text()
    assert "conv_general_dilated" in jaxpr  # for other platforms
    assert text.count("stablehlo.convolution(") == left
