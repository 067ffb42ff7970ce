import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from tests.metrics import orders

TIES = ("worst", "expected", "best")
DENOMINATORS = ("hits", "capped", "all")
CUTS = (None, 1, 2, 3, 5, 9, 100)

# One level of three holds one relevant item, then one relevant item alone, then a tied pair.
DISTANCES = np.array([[2.0, 1.0, 3.0, 1.0, 3.0, 1.0]])
RELEVANT = np.array([[True, False, True, True, False, False]])
COUNTS = np.array([[[3, 1], [1, 1], [2, 1]]])


@pytest.mark.parametrize(
    ("top_k", "denominator", "ties", "due"),
    [
        (None, "all", "best", (1 + 2 / 4 + 3 / 5) / 3),
        (None, "all", "worst", (1 / 3 + 2 / 4 + 3 / 6) / 3),
        (None, "all", "expected", ((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4 + (3 / 5 + 3 / 6) / 2) / 3),
        (2, "all", "best", 1 / 3),
        (2, "capped", "best", 1 / 2),
        (2, "hits", "best", 1.0),
        (2, "all", "worst", 0.0),
        (2, "capped", "expected", (1 + 1 / 2 + 0) / 3 / 2),
        (2, "hits", "expected", (1 + 1 / 2 + 0) / 3),
        (4, "hits", "worst", (1 / 3 + 2 / 4) / 2),
        (4, "all", "worst", (1 / 3 + 2 / 4) / 3),
        (5, "hits", "worst", (1 / 3 + 2 / 4) / 2),
        (5, "capped", "expected", ((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4 + (3 / 5) / 2) / 3),
    ],
)
def test_values_made_by_hand(top_k, denominator, ties, due):
    got = metrics.average_precision_from_counts(
        COUNTS, top_k=top_k, denominator=denominator, ties=ties
    )
    np.testing.assert_allclose(got, [due], rtol=1e-14)


def test_defaults_are_the_whole_ranking_and_the_mean_over_ties():
    due = ((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4 + (3 / 5 + 3 / 6) / 2) / 3
    got = metrics.average_precision(DISTANCES, RELEVANT)
    np.testing.assert_allclose(got, [due], rtol=1e-6)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(("levels", "most"), [(2, 5), (4, 3), (1, 8)])
def test_bounds_equal_enumeration_of_all_tie_orders(rng, denominator, levels, most):
    counts = orders.random_counts(rng, queries=30, levels=levels, most=most)
    for top_k in CUTS:
        due = [orders.by_enumeration(query, top_k, denominator) for query in counts]
        got = metrics.average_precision_bounds(counts, top_k=top_k, denominator=denominator)
        np.testing.assert_allclose(np.stack(got, axis=1), due, rtol=1e-12, atol=1e-15)


def test_hits_bounds_are_neither_relevant_first_nor_last():
    # [hit, miss | tied hit, miss] at 3: the miss inside is best, although it is relevant-last.
    counts = np.array([[[1, 1], [1, 0], [2, 1]]])
    bounds = metrics.average_precision_bounds(counts, top_k=3, denominator="hits")
    np.testing.assert_allclose(np.ravel(bounds), [5 / 6, 11 / 12, 1], rtol=1e-15)


def test_worst_hits_may_lie_between_the_fewest_and_the_most():
    counts = np.array([[[2, 2], [2, 0], [6, 3]]])
    worst = metrics.average_precision_bounds(counts, top_k=7, denominator="hits").worst
    by_hits = [(2 + sum(tail)) / (2 + len(tail)) for tail in ([], [3 / 7], [3 / 6, 4 / 7])]
    by_hits.append((2 + 3 / 5 + 4 / 6 + 5 / 7) / 5)
    assert min(by_hits) == by_hits[2]
    np.testing.assert_allclose(worst, min(by_hits), rtol=1e-14)


def test_expected_hits_at_a_cut_agrees_with_shuffled_ties(rng):
    counts = np.array([[[20, 7], [11, 0], [60, 25], [30, 30]]])
    shuffles, top_k = 20_000, 70
    parts = [np.tile(np.arange(n) < p, (shuffles, 1)) for n, p in counts[0]]
    ranking = np.concatenate([rng.permuted(part, axis=1) for part in parts], axis=1)[:, :top_k]
    precision = np.cumsum(ranking, axis=1) / np.arange(1, top_k + 1)
    samples = (precision * ranking).sum(1) / ranking.sum(1)
    got = metrics.average_precision_from_counts(counts, top_k=top_k, denominator="hits")
    assert abs(got[0] - samples.mean()) < 4 * samples.std() / np.sqrt(shuffles)


def tied_rankings(rng):
    return rng.integers(0, 6, (8, 40)), rng.random((8, 40)) < 0.3


@pytest.mark.parametrize("denominator", ["hits", "capped"])
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.by_default("worst-hits", "expected-capped")
def test_distance_form_equals_count_form_in_any_order_of_storage(rng, denominator, ties):
    levels, relevant = tied_rankings(rng)
    at_level = levels[:, None] == np.arange(6)[:, None]
    counts = np.stack([at_level.sum(-1), (at_level & relevant[:, None]).sum(-1)], axis=-1)
    options = {"denominator": denominator, "ties": ties, "top_k": 13}
    due = metrics.average_precision_from_counts(counts, **options)
    got = metrics.average_precision(0.25 * levels - 1, relevant, **options)
    np.testing.assert_allclose(got, due, atol=5e-7)
    order = rng.permutation(40)
    moved = metrics.average_precision(0.25 * levels[:, order] - 1, relevant[:, order], **options)
    np.testing.assert_array_equal(moved, got)


def test_the_type_of_distances_changes_nothing(rng):
    levels, relevant = tied_rankings(rng)
    due = metrics.average_precision(0.25 * levels - 1, relevant, top_k=13)
    for distances in (levels, (levels - 3).astype(np.int8)):
        got = metrics.average_precision(distances, relevant, top_k=13)
        np.testing.assert_allclose(got, due, rtol=1e-6)


@pytest.mark.parametrize(("denominator", "ties"), [("hits", "expected"), ("hits", "worst")])
@pytest.mark.by_default("hits-worst")
def test_jit_changes_nothing(rng, denominator, ties):
    levels, relevant = tied_rankings(rng)
    function = functools.partial(
        metrics.average_precision, top_k=13, denominator=denominator, ties=ties
    )
    distances = jnp.asarray(0.25 * levels - 1)
    np.testing.assert_allclose(
        jax.jit(function)(distances, relevant), function(distances, relevant), rtol=1e-6
    )


@pytest.mark.parametrize("denominator", ["hits", "all"])
@pytest.mark.by_default("hits")
def test_jax_counts_agree_with_numpy_counts_at_scale(rng, denominator):
    items = rng.integers(0, 3000, (16, 33))
    counts = np.stack([items, rng.binomial(items, np.linspace(0.4, 0.0, 33))], axis=-1)
    counts[5, :, 1] = 0
    for ties in TIES:
        options = {"top_k": 20_000, "denominator": denominator, "ties": ties}
        due = metrics.average_precision_from_counts(counts, **options)
        got = metrics.average_precision_from_counts(jnp.asarray(counts), **options)
        assert (due.dtype, got.dtype) == (np.float64, jnp.float32)
        np.testing.assert_allclose(got, due, rtol=2e-6)
        assert got[5] == 0


def test_60000_distinct_distances_are_exact_to_2e_6(rng):
    queries, items = 4, 60_000
    relevant = rng.random((queries, items)) < [[0.1], [0.5], [0.001], [1.0]]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, items + 1)
    due = (precision * relevant).sum(1) / relevant.sum(1)
    order = rng.permutation(items)
    distances = np.tile(np.arange(items, dtype=np.float32), (queries, 1))
    got = metrics.average_precision(distances[:, order], relevant[:, order])
    np.testing.assert_allclose(got, due, rtol=2e-6)
    counts = np.stack([np.ones_like(relevant, dtype=int), relevant], axis=-1)
    got = metrics.average_precision_from_counts(counts)
    np.testing.assert_allclose(got, due, rtol=1e-12)


def test_every_option_changes_the_number():
    counts = np.array([[[3, 2], [6, 4], [3, 2]]])
    values = [
        metrics.average_precision_from_counts(
            counts, top_k=top_k, denominator=denominator, ties=ties
        )[0]
        for top_k in (4, 7)
        for denominator in DENOMINATORS
        for ties in TIES
    ]
    assert len(np.unique(np.round(values, 9))) == len(values)


def test_a_cut_beyond_the_last_item_is_no_cut():
    for denominator in DENOMINATORS:
        whole = metrics.average_precision_from_counts(COUNTS, denominator=denominator)
        for top_k in (6, 7, 10**12):
            options = {"top_k": top_k, "denominator": denominator}
            got = metrics.average_precision_from_counts(COUNTS, **options)
            np.testing.assert_allclose(got, whole, rtol=1e-14)
    # Beside a longer ranking the cut stays, and is still no cut for the shorter one.
    both = np.concatenate([COUNTS, 5 * COUNTS])
    got = metrics.average_precision_from_counts(both, top_k=7, denominator="hits")
    np.testing.assert_allclose(got[:1], whole, rtol=1e-14)
    got = metrics.average_precision_from_counts(jnp.asarray(both), top_k=7, denominator="hits")
    np.testing.assert_allclose(got[:1], whole, rtol=1e-6)
    got = metrics.average_precision(DISTANCES, RELEVANT, top_k=10**12, denominator="hits")
    np.testing.assert_allclose(got, whole, rtol=1e-6)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("ties", TIES)
def test_nothing_relevant_counts_as_exactly_zero(denominator, ties):
    counts = np.array([[[900, 0], [3, 0]], [[5, 0], [7, 7]]])
    got = metrics.average_precision_from_counts(counts, top_k=4, denominator=denominator, ties=ties)
    np.testing.assert_array_equal(got, [0, 0])


@pytest.mark.parametrize("is_relevant", [False, True])
def test_one_item_is_all_or_nothing(is_relevant):
    got = metrics.average_precision(np.array([[3.5]]), np.array([[is_relevant]]))
    np.testing.assert_array_equal(got, [float(is_relevant)])


def test_chance_is_the_mean_over_all_orders():
    due = [orders.by_enumeration([(7, p)], 3, "capped")[1] for p in (0, 2, 7)]
    got = metrics.chance(np.array([0, 2, 7]), 7, top_k=3)
    np.testing.assert_allclose(got, due, rtol=1e-13)
    due = [orders.by_enumeration([(7, p)], 3, "all")[1] for p in (0, 2, 7)]
    got = metrics.chance(jnp.array([0, 2, 7]), 7, top_k=3, denominator="all")
    np.testing.assert_allclose(got, due, rtol=1e-6)
    assert got.dtype == jnp.float32


def test_chance_of_a_large_database_is_the_share_of_relevant_items():
    np.testing.assert_allclose(metrics.chance(np.array([5400]), 54_000), [0.1], rtol=2e-3)
