import math

import jax
import numpy as np
import pytest

from quantjax import losses, metrics

# Saturated codes at Hamming distances 0, 1, 1, 2 from the query.
QUERY = np.array([[99.0, 99.0]], np.float32)
DATABASE = np.array([[99.0, 99.0], [99.0, -99.0], [-99.0, 99.0], [-99.0, -99.0]], np.float32)
NOBODY = np.array([-1])

# Relevant, own column, bins -> AP.
PRECISIONS = [
    # Items 1, 2, 1 and relevant 1, 1, 0: (1 (0+1+1)/(0+1+1) + 1 (1+2+1)/(1+3+1)) / 2.
    ((1, 1, 0, 0), -1, 2, 0.9),
    # Items 0, 2, 1 and relevant 0, 1, 0: 1 (0+1+1)/(0+2+1).
    ((1, 1, 0, 0), 0, 2, 2 / 3),
    # Items 1, 2, 1 and relevant 0, 0, 1: 1 (0+1+1)/(3+4+1).
    ((0, 0, 0, 1), -1, 2, 1 / 4),
    # Two bins share what lies between: items 2, 2 and relevant 1.5, 0.5.
    ((1, 1, 0, 0), -1, 1, (1.5 * 2.5 / 3 + 0.5 * 4.5 / 7) / 2),
    ((1, 1, 1, 1), -1, 2, 1.0),
    ((0, 0, 0, 0), -1, 2, 1.0),
    ((1, 0, 0, 0), 0, 2, 1.0),
]


@pytest.mark.parametrize(("relevant", "own", "num_bins", "due"), PRECISIONS)
def test_soft_average_precision_made_by_hand(relevant, own, num_bins, due):
    similar = np.array([relevant], bool)
    got = losses.soft_average_precision(
        QUERY, DATABASE, similar, np.array([own]), num_bins=num_bins
    )
    np.testing.assert_allclose(got, [1 - due], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steepness", [1.0, 2.0])
def test_soft_average_precision_between_two_bins_made_by_hand(steepness):
    # tanh(steepness x / 2) = 1 and 3/5, so d = 1/5: items (4/5 + 4/5, 1/5 + 1/5), half relevant.
    x = np.array([[2 * math.atanh(0.6) / steepness]] * 2, np.float32)
    got = losses.soft_average_precision(
        QUERY[:, :1], x, np.array([[True, False]]), NOBODY, steepness=steepness
    )
    due = 0.8 * (0.8 + 1) / (1.6 + 1) + 0.2 * (0.8 + 1 + 1) / (1.6 + 2 + 1)
    np.testing.assert_allclose(got, [1 - due], rtol=1e-5)


def test_soft_average_precision_is_near_the_metric_on_codes():
    rng = np.random.default_rng(0)
    codes = np.where(rng.normal(size=(80, 12)) > 0, 99, -99).astype(np.float32)
    queries, database = codes[:20], codes[20:]
    similar = rng.uniform(size=(20, 60)) < 0.2
    soft = losses.soft_average_precision(queries, database, similar, np.full(20, -1))
    distances = (12 - np.sign(queries) @ np.sign(database).T) / 2
    exact = metrics.average_precision(distances, similar)
    np.testing.assert_allclose(1 - np.asarray(soft), exact, atol=0.05)
    assert np.max(np.abs(1 - np.asarray(soft) - exact)) > 1e-4  # Near, and not the same.


# Cosines 0.96, 0.8, 0.6, 0.28 to (1, 0).
BY_COSINE = np.array([[24.0, 7.0], [4.0, 3.0], [3.0, 4.0], [7.0, -24.0]], np.float32)
SECOND_AND_THIRD = np.array([[False, True, True, False]])
AXIS = np.array([[5.0, 0.0]], np.float32)
STEEP = {"rank_temperature": 1e-3}


@pytest.mark.parametrize(
    ("own", "top_k", "temperature", "due"),
    [
        # Ranks 2 and 3: sigmoid((K - r) / t).
        (-1, 2, 1e-3, 0.5 / 2),
        (-1, 4, 1e-3, 2 / 2),
        (-1, 1, 1e-3, 0.0),
        (-1, 1, math.log(3) ** -1, 1 / 4 + 1 / 10),
        (0, 2, 1e-3, 1.5 / 2),
        (1, 2, 1e-3, 0.5),
    ],
)
def test_smooth_recall_at_k_made_by_hand(own, top_k, temperature, due):
    got = losses.smooth_recall_at_k(
        AXIS,
        BY_COSINE,
        SECOND_AND_THIRD,
        np.array([own]),
        top_ks=(top_k,),
        count_temperatures=(temperature,),
        **STEEP,
    )
    np.testing.assert_allclose(got, [1 - due], rtol=1e-4, atol=1e-6)


def test_smooth_recall_at_k_defaults_are_the_public_codes():
    got = losses.smooth_recall_at_k(AXIS, BY_COSINE, SECOND_AND_THIRD, NOBODY)
    recalls = [
        sum(1 / (1 + math.exp(-(k - rank) / k)) for rank in (2, 3)) / min(k, 2)
        for k in (1, 2, 4, 8, 16)
    ]
    np.testing.assert_allclose(got, [1 - np.mean(recalls)], rtol=1e-4)
    # t_r = 0.01: a gap of 0.01 is sigmoid(1) of a rank.
    near = np.array([[1.0, 0.0], [0.99, math.sqrt(1 - 0.99**2)]], np.float32)
    got = losses.smooth_recall_at_k(
        AXIS, near, np.array([[False, True]]), NOBODY, top_ks=(1,), count_temperatures=(1.0,)
    )
    rank = 1 + 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(got, [1 - 1 / (1 + math.exp(rank - 1))], rtol=1e-3)


def test_smooth_recall_at_k_of_ties_never_exceeds_one():
    # Four equal items have rank 2.5 each: all four are inside the first three.
    ties = np.ones((4, 2), np.float32)
    got = losses.smooth_recall_at_k(
        AXIS, ties, np.ones((1, 4), bool), NOBODY, top_ks=(3,), count_temperatures=(1e-3,), **STEEP
    )
    np.testing.assert_allclose(got, [0], atol=1e-6)


@pytest.mark.parametrize("function", [losses.soft_average_precision, losses.smooth_recall_at_k])
@pytest.mark.parametrize("relevant", [(0, 0, 0, 0), (0, 1, 0, 0)])
def test_queries_without_a_relevant_item_give_nothing(function, relevant):
    similar, own = np.array([relevant], bool), np.array([1])
    loss = jax.value_and_grad(lambda q, d: function(q, d, similar, own)[0], argnums=(0, 1))
    value, gradients = jax.jit(loss)(AXIS, BY_COSINE)
    for got in (value, *gradients):
        np.testing.assert_array_equal(got, np.zeros_like(got))


@pytest.mark.parametrize("top_ks", [(), (1, 2)])
def test_smooth_recall_at_k_refuses_temperatures_of_another_number(top_ks):
    with pytest.raises(ValueError, match="count_temperatures must have one value for each K"):
        losses.smooth_recall_at_k(
            AXIS,
            BY_COSINE,
            SECOND_AND_THIRD,
            NOBODY,
            top_ks=top_ks,
            count_temperatures=(1.0,) * (len(top_ks) // 2),
        )
