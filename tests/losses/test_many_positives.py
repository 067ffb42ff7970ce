import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

QUERY = np.array([[1.0, 0.0]], np.float32)
KEYS = np.array([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0], [0.0, 0.0]], np.float32)
# Cosines 1, 0, 0.6, 0; at T = 1/2 the powers are e^2, 1, e^1.2, 1.
E_2, E_12 = math.exp(2), math.exp(1.2)
SUPERVISED = {
    ((0, 2), ()): math.log(E_2 + E_12 + 2) - 1.6,
    ((0, 2), (0,)): math.log(E_12 + 2) - 1.2,
    ((0, 2), (1, 3)): math.log(E_2 + E_12) - 1.6,
    ((1,), (0, 2, 3)): 0.0,
    ((0, 1, 2, 3), ()): math.log(E_2 + E_12 + 2) - 0.8,
    ((0,), (0,)): 0.0,
    ((), ()): 0.0,
}


def marks(columns):
    return np.isin(np.arange(4), columns)[None]


@pytest.mark.parametrize(("positives", "ignored"), SUPERVISED)
def test_supervised_contrastive_made_by_hand(positives, ignored):
    got = losses.supervised_contrastive(
        QUERY, KEYS, marks(positives), marks(ignored), temperature=0.5
    )
    np.testing.assert_allclose(got, [SUPERVISED[positives, ignored]], rtol=1e-5, atol=1e-6)


def test_supervised_contrastive_with_one_positive_is_nt_xent(rng):
    x = np.float32(rng.normal(size=(6, 4)))
    one = np.roll(np.arange(6), 3)
    got = losses.supervised_contrastive(
        x, x, one[:, None] == np.arange(6), np.eye(6, dtype=bool), temperature=0.3
    )
    due = losses.nt_xent(x, x, one, np.arange(6), temperature=0.3)
    np.testing.assert_allclose(got, due, rtol=1e-5)


# Cosines 1, 0, 0.6, 0 again: pull and push of the pairs that epsilon leaves.
MULTI_SIMILARITY = {
    ((0, 2), (), 0.5): (0.0, 0.0),
    ((0, 2), (), 0.7): (math.log(1 + math.exp(-0.9)) / 3, math.log(1 + 2 * math.exp(-0.6)) / 2),
    ((0, 1), (), 0.5): (
        math.log(1 + math.exp(-2.1) + math.exp(0.9)) / 3,
        math.log(1 + math.exp(0.6) + math.exp(-0.6)) / 2,
    ),
    ((0, 1), (2,), 0.5): (math.log(1 + math.exp(0.9)) / 3, math.log(1 + math.exp(-0.6)) / 2),
    ((0, 1, 2, 3), (), 0.5): (0.0, 0.0),
    ((), (), 0.5): (0.0, 0.0),
}


@pytest.mark.parametrize(("positives", "ignored", "epsilon"), MULTI_SIMILARITY)
def test_multi_similarity_made_by_hand(positives, ignored, epsilon):
    options = {"alpha": 3.0, "beta": 2.0, "base": 0.3, "epsilon": epsilon}

    def loss(x):
        columns = marks(positives), marks(ignored)
        return losses.multi_similarity(x, KEYS, *columns, **options)[0]

    value, gradient = jax.value_and_grad(loss)(QUERY)
    due = sum(MULTI_SIMILARITY[positives, ignored, epsilon])
    np.testing.assert_allclose(value, due, rtol=1e-5, atol=1e-7)
    assert np.isfinite(gradient).all()


def test_multi_similarity_defaults_are_the_papers():
    got = losses.multi_similarity(QUERY, KEYS, marks((1,)))
    # The positive of cosine 0 against negatives of 1, 0.6 and 0.
    push = math.log(1 + 1 + math.exp(-20) + math.exp(-50)) / 50
    np.testing.assert_allclose(got, [math.log(1 + math.exp(2)) / 2 + push], rtol=1e-5)


def test_a_row_without_any_column_has_no_gradient():
    def loss(x):
        nothing, everything = np.zeros((1, 4), bool), np.ones((1, 4), bool)
        options = {"temperature": 0.5}
        return jnp.sum(
            losses.supervised_contrastive(x, KEYS, nothing, everything, **options)
            + losses.nt_xent(x, KEYS, np.array([-1]), np.array([-1]), everything, **options)
        )

    np.testing.assert_array_equal(jax.grad(loss)(QUERY), np.zeros((1, 2)))
