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


def test_a_row_without_any_column_has_no_gradient():
    def loss(x):
        nothing, everything = np.zeros((1, 4), bool), np.ones((1, 4), bool)
        options = {"temperature": 0.5}
        return jnp.sum(
            losses.supervised_contrastive(x, KEYS, nothing, everything, **options)
            + losses.nt_xent(x, KEYS, np.array([-1]), np.array([-1]), everything, **options)
        )

    np.testing.assert_array_equal(jax.grad(loss)(QUERY), np.zeros((1, 2)))
