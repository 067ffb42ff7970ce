"""BiHalf's losses by their equations, and its gradient by that of the public code."""

import jax
import numpy as np
import pytest

from quantjax import errors, methods
from tests.methods import oracles

BATCH = oracles.batch(num_rows=7, width=3)
X = np.float64(BATCH["feature"])


def codes():
    """The larger 3 of the 7 rows of each bit are +1."""
    ranks = np.argsort(np.argsort(-X, axis=0), axis=0)
    return np.where(ranks < 3, 1.0, -1.0)


def pulled(pull):
    return pull / 2 * np.mean((X - codes()) ** 2)


@pytest.mark.parametrize("pull", [6.0, 0.5])
def test_cosines_of_codes_match_those_of_features(pull):
    f = np.random.default_rng(1).normal(size=(7, 5))
    method = methods.bihalf(
        oracles.PLAIN, bits=3, pull=pull, inputs=methods.features,
        features=lambda batch: batch["given"],
    )  # fmt: skip
    given = {**BATCH, "given": np.float32(f)}
    value, _ = oracles.loss(method, *oracles.started(method, given), given)
    gaps = [
        oracles.unit(codes()[i]) @ oracles.unit(codes()[j])
        - oracles.unit(f[i]) @ oracles.unit(f[j])
        for i in range(7)
        for j in range(7)
    ]
    np.testing.assert_allclose(value, np.mean(np.square(gaps)) + pulled(pull), rtol=1e-5)


@pytest.mark.parametrize("pull", [6.0, 0.5])
def test_a_classifier_tells_the_classes_from_codes(pull):
    method = methods.bihalf_supervised(oracles.PLAIN, bits=3, pull=pull, inputs=methods.features)
    params, state = oracles.started(method, BATCH)
    value, gradient = oracles.loss(method, params, state, BATCH)
    logits = codes() @ np.float64(params["loss"]).T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.float64(BATCH["label"])
    due = -np.mean(np.log(np.sum(label * p, axis=1)))
    np.testing.assert_allclose(value, due + pulled(pull), rtol=1e-5)
    # The gradient of the codes passes to u, and gamma (u - b) / (B K) is added to it.
    of_codes = (p - label) @ np.float64(params["loss"]) / 7
    of_x = of_codes + pull * (X - codes()) / (7 * 3)
    np.testing.assert_allclose(gradient["net"]["shift"], of_x.sum(axis=0), atol=1e-6)


def test_a_batch_without_features_is_told_in_a_line():
    method = methods.bihalf(oracles.PLAIN, bits=3, inputs=lambda batch: batch["image"])
    batch = {"image": BATCH["feature"], "label": BATCH["label"], "index": BATCH["index"]}
    with pytest.raises(
        errors.InputError, match="the batch has no feature, its columns are"
    ) as told:
        methods.check(method, batch, 1024, 1)
    assert "\n" not in str(told.value)


def test_features_have_no_gradient():
    method = methods.bihalf(
        oracles.PLAIN, bits=3, pull=0.0, inputs=methods.features,
        features=lambda batch: batch["given"],
    )  # fmt: skip
    params, state = oracles.started(method, BATCH)

    def of(f):
        return method.phases[0].loss(params, state, {**BATCH, "given": f}, oracles.CONTEXT)[0]

    assert not np.any(jax.grad(of)(2 * BATCH["feature"]))
