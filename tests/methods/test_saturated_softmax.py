"""The recommended method against its equations in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods, models
from quantjax.methods.saturated_softmax import scale_of

LABELS = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
BATCH = {
    "image": np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32),
    "label": LABELS,
    "index": np.arange(4, dtype=np.int32),
}
NETWORK = models.mlp((2, 2, 1), hidden=(), dim=4)
CONTEXT = methods.Context(jax.random.key(0), jnp.int32(0), jnp.int32(0), *methods.Collectives())


def oracle(x, proxies, slope):
    """The loss of each row, and its embedding, by loops in float64."""
    values, embeddings = [], []
    for row, label in zip(np.float64(x), LABELS, strict=True):
        z = np.tanh(slope * math.sqrt(len(row)) * row / np.linalg.norm(row))
        cosines = [z @ w / np.linalg.norm(z) / np.linalg.norm(w) for w in np.float64(proxies)]
        logits = np.array(cosines) * math.sqrt(2) * math.log(2)
        values.append(np.log(np.exp(logits).sum()) - logits[label.argmax()])
        embeddings.append(z / np.linalg.norm(z))
    return np.array(values), np.array(embeddings)


@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_loss_and_embedding_are_those_of_the_equations(slope):
    method = methods.saturated_softmax(NETWORK, bits=4, slope=slope)
    params, state = method.init(jax.random.key(1), BATCH, 1024)
    value, _ = method.phases[0].loss(params, state, BATCH, CONTEXT)
    x, _ = NETWORK.apply(params["net"], state["nets"]["net"], BATCH["image"], train=False)
    values, embeddings = oracle(x, params["loss"], slope)
    assert value == pytest.approx(values.mean(), rel=1e-5)
    np.testing.assert_allclose(method.embed(params, state, BATCH), embeddings, atol=1e-5)


def test_the_scale_grows_with_the_classes():
    assert scale_of(2) == scale_of(3) == pytest.approx(0.98026, abs=1e-5)
    assert scale_of(7) == pytest.approx(2.53394, abs=1e-5)
    assert scale_of(101) == pytest.approx(6.51269, abs=1e-5)


def test_a_slope_of_zero_is_refused_in_a_line():
    for build in (
        lambda: methods.saturated_softmax(NETWORK, bits=4, slope=0.0),
        lambda: methods.saturated_softmax_product(
            NETWORK, dim=4, num_codebooks=2, num_codewords=2, slope=0.0
        ),
    ):
        with pytest.raises(errors.InputError, match="slope must be above 0 and finite"):
            build()
