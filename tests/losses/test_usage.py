import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.quantizers import product

X = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], np.float32)


@pytest.mark.parametrize(
    ("function", "due"),
    [
        # Means of the bits: 0.75, 0.5, 1.5.
        (losses.bit_balance, [0.5625, 0.25, 2.25]),
        # Moments: 0.625, 0.75, 1.5; 0.75, 2.5, 3; 1.5, 3, 4.5.
        (
            losses.bit_independence,
            [[0.140625, 0.5625, 2.25], [0.5625, 2.25, 9.0], [2.25, 9.0, 12.25]],
        ),
    ],
)
def test_use_of_bits_made_by_hand(function, due):
    np.testing.assert_allclose(function(X), due, rtol=1e-6)


# First codebook: two certain rows that share the codewords. Second: -1/4 log 1/4 - 3/4 log 3/4 =
# 0.5623351 for either row and for their mean.
SOFT = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.75, 0.25], [0.75, 0.25]]], np.float32)


@pytest.mark.parametrize(
    ("function", "due"),
    [
        (losses.usage_entropy, [0.0, 0.6931472 - 0.5623351]),
        (losses.code_entropy, [[0.0, 0.0], [0.5623351, 0.5623351]]),
        (losses.gini_batch, [0.5, 0.625]),
        (losses.gini_sample, [[-1.0, -1.0], [-0.625, -0.625]]),
    ],
)
def test_usage_made_by_hand(function, due):
    np.testing.assert_allclose(function(SOFT), due, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", [losses.usage_entropy, losses.code_entropy])
def test_entropy_of_underflowed_weights_has_a_finite_gradient(function):
    def of_logits(logits):
        return jnp.sum(function(jax.nn.softmax(logits)))

    logits = jnp.array([[[0.0, 2000.0, -2000.0]]])
    assert jnp.all(jnp.isfinite(jax.grad(of_logits)(logits)))


@pytest.mark.parametrize("function", [losses.usage_entropy, losses.gini_batch])
def test_usage_of_gathered_embeddings_equals_one_device(function, rng):
    codebooks = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(16, 6)), jnp.float32)

    def loss(codebooks, x, gather=lambda x: x):
        return jnp.sum(function(product.soft_assign(codebooks, gather(x), temperature=1.0)))

    def on_each_device(codebooks, x):
        gathered = jax.value_and_grad(loss)(
            codebooks, x, lambda x: jax.lax.all_gather(x, "data", tiled=True)
        )
        return jax.lax.pmean(gathered, "data")

    eight = jax.pmap(on_each_device, axis_name="data", in_axes=(None, 0), out_axes=None)
    got = eight(codebooks, np.reshape(x, (8, 2, 6)))
    due = jax.jit(jax.value_and_grad(loss))(codebooks, x)
    for one, other in zip(got, due, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
