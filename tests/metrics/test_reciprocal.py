import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from tests.metrics import orders


def groups():
    for n in (1, 2, 5, 33, 40, 41, 42, 60, 100, 1000, 60_000, 1_000_000):
        for p in {1, 2, 3, 9, 20, n // 1000, n // 100, n // 10, n // 3, n - 50, n - 1, n}:
            for before in (0, 50, 1_000_000) if n > 1000 else (0, 1, 50, 10_000, 1_000_000):
                if 1 <= p <= n:
                    yield before, n, p


GROUPS = np.array(sorted(set(groups())))
CUT = 20_000


@functools.cache
def chances(items, relevant):
    """The chance of each rank of a level to be that of its first relevant item."""
    t = np.arange(1, items - relevant + 1, dtype=np.longdouble)
    misses = (items - t - relevant + 1) / (items - t)
    return np.cumprod(np.concatenate([[np.longdouble(relevant) / items], misses]))


def summed(before, items, relevant, top_k=None):
    """The formula of the expectation, rank by rank."""
    inside = chances(items, relevant)[: None if top_k is None else max(top_k - before, 0)]
    return float((inside / (before + np.arange(1, len(inside) + 1))).sum())


def counts():
    first = np.stack([GROUPS[:, 0], 0 * GROUPS[:, 0]], axis=-1)
    return np.stack([first, GROUPS[:, 1:]], axis=1)


@pytest.mark.parametrize("top_k", [None, CUT])
def test_levels_of_any_size_equal_a_sum_over_ranks(top_k):
    due = [summed(*group, top_k=top_k) for group in GROUPS]
    got = metrics.reciprocal_rank_from_counts(counts(), top_k=top_k)
    np.testing.assert_allclose(got, due, rtol=2e-12)
    got = metrics.reciprocal_rank_from_counts(jnp.asarray(counts()), top_k=top_k)
    np.testing.assert_allclose(got, due, rtol=2e-6)


def test_values_made_by_hand():
    # Two misses, then a level of three with one relevant item, then the other.
    table = np.array([[[2, 0], [3, 1], [1, 1]]])
    for options, due in [
        ({"ties": "best"}, 1 / 3),
        ({"ties": "worst"}, 1 / 5),
        ({}, (1 / 3 + 1 / 4 + 1 / 5) / 3),
        ({"top_k": 4}, (1 / 3 + 1 / 4) / 3),
        ({"top_k": 4, "ties": "worst"}, 0),
        ({"top_k": 4, "ties": "best"}, 1 / 3),
        ({"top_k": 2, "ties": "best"}, 0),
    ]:
        got = metrics.reciprocal_rank_from_counts(table, **options)
        np.testing.assert_allclose(got, [due], rtol=1e-13)


def test_hit_rates_made_by_hand():
    table = np.array([[[2, 0], [4, 2], [1, 1]]])
    for top_k, due in [
        (2, [0, 0, 0]),
        (3, [0, 2 / 4, 1]),
        (4, [0, 1 - (2 / 4) * (1 / 3), 1]),
        (5, [1, 1, 1]),
        (None, [1, 1, 1]),
    ]:
        for ties, value in zip(("worst", "expected", "best"), due, strict=True):
            got = metrics.hit_rate_from_counts(table, top_k=top_k, ties=ties)
            np.testing.assert_allclose(got, [value], rtol=1e-13)


def test_hit_rate_is_the_recall_at_k_of_metric_learning(rng):
    query = orders.random_counts(rng, queries=1, levels=5, most=6)[0]
    distances, relevant = orders.distances_from_counts(rng, query)
    distances = distances + 1e-3 * rng.permutation(distances.shape[1])  # no ties are left
    order = np.argsort(distances[0])
    for top_k in (1, 4):
        due = [float(relevant[0, order][:top_k].any())]
        np.testing.assert_array_equal(metrics.hit_rate(distances, relevant, top_k=top_k), due)


def test_a_single_relevant_item_among_ties_is_a_harmonic_mean():
    got = jax.jit(metrics.reciprocal_rank)(np.zeros((1, 300)), np.arange(300)[None] == 7)
    np.testing.assert_allclose(got, (1 / np.arange(1, 301)).mean(), rtol=1e-6)
