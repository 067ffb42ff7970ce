import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from quantjax.metrics import conventions
from tests.metrics import evaluators, orders

ITEMS = 12
ORIGINALS = {
    conventions.deephash_pytorch: (evaluators.sliced, (-1, None, 1, 3, ITEMS, 50, -4, -11)),
    conventions.thulab: (evaluators.skipping, (1, 3, ITEMS)),
    conventions.orthohash: (evaluators.padding, (1, 3, ITEMS)),
    conventions.fire: (evaluators.padding, (-1, 1, 3, ITEMS)),
    conventions.mecoq: (evaluators.in_one_matrix, (None, 0, 1, 3, ITEMS)),
    conventions.spq: (evaluators.sliced, (-1, None, 1, 3, ITEMS, 50)),
    conventions.gpq: (evaluators.padding, (1, 3, ITEMS)),
    conventions.hashnet: (evaluators.skipping, (1, 3, ITEMS)),
    conventions.talr: (evaluators.tie_aware, (None,)),
}
CASES = [
    pytest.param(convention, original, top_k, id=f"{convention.name}@{top_k}")
    for convention, (original, cuts) in ORIGINALS.items()
    for top_k in cuts
]

# Two queries: the first hits at ranks 1 or 2 (tied) and 4, the second at its last rank only.
DISTANCES = np.array([[1, 1, 2, 3], [0, 2, 1, 3]])
RELEVANT = np.array([[False, True, False, True], [False, False, False, True]])


def score(convention, distances, relevant, top_k):
    return metrics.mean_average_precision_as(
        convention, distances, relevant, top_k=top_k, distance=convention.distances[0]
    )


def draw(rng, *, queries=7):
    """Many ties; queries without relevant items, the last one among them."""
    share = np.array([0.0, 0.1, 0.3, 0.6, 1.0, 0.2, 0.0])[:queries, None]
    distances = rng.integers(0, 4, (queries, ITEMS))
    return distances, rng.random((queries, ITEMS)) < share


@pytest.mark.parametrize(("convention", "original", "top_k"), CASES)
def test_convention_equals_the_loop_of_its_original(rng, convention, original, top_k):
    for _ in range(5):
        distances, relevant = draw(rng)
        got = score(convention, distances, relevant, top_k)
        np.testing.assert_allclose(got.value, original(distances, relevant, top_k), rtol=1e-13)
        np.testing.assert_allclose(np.nanmean(got.per_query), got.value, rtol=1e-13)
        np.testing.assert_array_equal(np.isnan(got.per_query), got.excluded)
        assert got.worst <= got.expected <= got.best
        assert got.worst <= got.value <= got.best


@pytest.mark.parametrize(
    ("convention", "top_k"),
    [
        (conventions.deephash_pytorch, None),
        (conventions.deephash_pytorch, -1),
        (conventions.deephash_pytorch, 3),
        (conventions.thulab, 1),
        (conventions.thulab, 2),
        (conventions.thulab, 3),
        (conventions.thulab, 5),
        (conventions.talr, None),
    ],
)
def test_bounds_equal_every_order_of_ties(rng, convention, top_k):
    original = ORIGINALS[convention][0]
    for share in (0.1, 0.2, 0.3, 0.5, 0.8):
        distances = np.sort(rng.integers(0, 2, (3, 5)), axis=1)
        relevant = rng.random(distances.shape) < share
        got = score(convention, distances, relevant, top_k)
        tie_orders = [
            orders.tie_orders([(sum(near == v), sum(hits[near == v])) for v in (0, 1)])
            for near, hits in zip(distances, relevant, strict=True)
        ]
        untied = np.broadcast_to(np.arange(5), (3, 5))
        values = [
            original(untied, np.array(order), top_k) for order in itertools.product(*tie_orders)
        ]
        values = [value for value in values if not math.isnan(value)] or [math.nan]
        due = (min(values), sum(values) / len(values), max(values))
        np.testing.assert_allclose((got.worst, got.expected, got.best), due, rtol=1e-13)


@pytest.mark.parametrize("top_k", [1, 30, 55, 60])
def test_bounds_are_those_of_the_counts_at_each_distance(rng, top_k):
    distances = rng.integers(0, 25, (8, 60))
    relevant = rng.random((8, 60)) < 0.1
    levels = distances[..., None] == np.arange(25)
    counts = np.stack([levels.sum(1), (levels & relevant[..., None]).sum(1)], axis=-1)
    due = metrics.average_precision_bounds(counts, top_k=top_k, denominator="hits")
    got = score(conventions.orthohash, distances, relevant, top_k)
    means = [part.mean() for part in due]
    np.testing.assert_allclose((got.worst, got.expected, got.best), means, rtol=1e-12)


def test_conventions_disagree_on_the_same_codes():
    table = {
        (convention.name, top_k): score(convention, DISTANCES, RELEVANT, top_k).value
        for convention, top_k in (
            (conventions.deephash_pytorch, None),
            (conventions.deephash_pytorch, -1),
            (conventions.thulab, 4),
            (conventions.thulab, 3),
            (conventions.orthohash, 3),
            (conventions.fire, -1),
            (conventions.mecoq, None),
            (conventions.talr, None),
        )
    }
    whole = ((1 / 2 + 2 / 4) / 2 + 1 / 4) / 2
    due = {
        ("deephash-pytorch", None): whole,
        ("deephash-pytorch", -1): 1 / 2 / 2,  # the last rank of either query is not looked at
        ("thulab", 4): whole,
        ("thulab", 3): 1 / 2,  # and the second query, without hits, is left out
        ("orthohash", 3): 1 / 2 / 2,
        ("fire", -1): whole,
        ("mecoq", None): whole,
        ("talr", None): (((1 + 1 / 2) / 2 + 2 / 4) / 2 + 1 / 4) / 2,
    }
    assert table == pytest.approx(due, rel=1e-14)


@pytest.mark.parametrize(
    ("top_k", "due"),
    [
        (1, 0.0),
        (2, 1 / 2 / 2),
        (3, 1 / 2 / 2),
        (4, ((1 / 2 + 2 / 4) / 2 + 1 / 4) / 2),
    ],
)
def test_ties_stand_in_storage_order(top_k, due):
    got = score(conventions.orthohash, DISTANCES, RELEVANT, top_k)
    assert got.value == pytest.approx(due, rel=1e-15)
    swapped = DISTANCES[:, [1, 0, 2, 3]], RELEVANT[:, [1, 0, 2, 3]]
    moved = score(conventions.orthohash, *swapped, top_k)
    assert moved.value > got.value
    assert (moved.worst, moved.expected, moved.best) == (got.worst, got.expected, got.best)
    assert moved.best == moved.value
    assert got.worst == got.value


def test_unstable_sort_of_the_original_stays_within_the_bounds(rng):
    distances = rng.integers(0, 4, (20, 300))
    relevant = rng.random(distances.shape) < 0.2
    got = score(conventions.deephash_pytorch, distances, relevant, 50)
    order = np.argsort(distances, axis=1)
    sorted_distances = np.tile(np.arange(300), (20, 1))
    unstable = evaluators.sliced(sorted_distances, np.take_along_axis(relevant, order, axis=1), 50)
    assert unstable != got.value
    assert got.worst < unstable < got.best


def test_only_the_queries_that_hit_inside_the_cut_are_kept():
    got = score(conventions.thulab, DISTANCES, RELEVANT, 1)
    assert math.isnan(got.value)
    np.testing.assert_array_equal(got.excluded, [True, True])
    # The first query hits at rank 1 if its tie falls so, and no other order has a mean.
    assert (got.worst, got.expected, got.best) == (1, 1, 1)
    got = score(conventions.thulab, DISTANCES, RELEVANT, 3)
    np.testing.assert_array_equal(got.excluded, [False, True])
    np.testing.assert_array_equal(got.per_query, [1 / 2, np.nan])


def test_talr_drops_irrelevant_queries_at_the_end_only():
    relevant = np.array([[0, 0], [1, 0], [0, 0], [0, 0]], bool)
    got = score(conventions.talr, np.array([[1, 1]] * 4), relevant, None)
    np.testing.assert_array_equal(got.per_query, [0, 3 / 4, np.nan, np.nan])
    assert (got.worst, got.value, got.best) == (1 / 4, 3 / 8, 1 / 2)


def test_reranking_equals_going_through_the_buckets(rng):
    for _ in range(30):
        hamming = rng.integers(0, 4, (6, ITEMS)) * (rng.random((6, ITEMS)) < 0.9)
        fine = rng.integers(0, 3, (6, ITEMS)) / 2 - 1
        relevant = rng.random((6, ITEMS)) < 0.3
        distances = metrics.rerank(hamming, fine, bits=3)
        top_k = int(np.isfinite(distances).sum(axis=1).min())
        for cut in {1, 2, top_k}:
            got = score(conventions.thulab_rerank, distances, relevant, cut)
            due = evaluators.in_buckets(hamming, fine, relevant, cut, bits=3)
            np.testing.assert_allclose(got.value, due, rtol=1e-13)
        with pytest.raises(ValueError, match=f"from 1 to {top_k}, .* got {top_k + 1}"):
            score(conventions.thulab_rerank, distances, relevant, top_k + 1)


def test_reranked_distances_made_by_hand():
    hamming = np.array([[1, 0, 2, 1, 1, 0.5]])
    fine = np.array([[3.0, 9.0, 0.0, 2.0, 3.0, 0.0]])
    got = metrics.rerank(hamming, fine, bits=2)
    np.testing.assert_array_equal(got, [[3, 0, np.inf, 2, 3, np.inf]])
    with pytest.raises(ValueError, match=r"shape of hamming, \(1, 6\), got \(1, 5\)"):
        metrics.rerank(hamming, fine[:, :5], bits=2)
    with pytest.raises(ValueError, match="bits must be at least 1, got 0"):
        metrics.rerank(hamming, fine, bits=0)


def test_tiles_change_nothing(rng, monkeypatch):
    distances, relevant = draw(rng)
    whole = score(conventions.thulab, distances, relevant, 3)
    monkeypatch.setattr(conventions, "_ENTRIES", 2 * ITEMS)
    for tiled, due in zip(score(conventions.thulab, distances, relevant, 3), whole, strict=True):
        np.testing.assert_array_equal(tiled, due)


def test_inputs_are_read_only_and_may_be_arrays_of_jax(rng):
    distances, relevant = draw(rng)
    due = score(conventions.thulab, distances, relevant, 3)
    distances.flags.writeable = relevant.flags.writeable = False
    assert score(conventions.thulab, distances, relevant, 3).value == due.value
    got = score(conventions.thulab, jnp.asarray(distances, "bfloat16"), jnp.asarray(relevant), 3)
    assert got.value == due.value


@pytest.mark.parametrize(
    ("convention", "top_k", "metric"),
    [
        (conventions.deephash_pytorch, -1, "map@all-1|ties=storage|den=hits|zero=0|dist=hamming"),
        (conventions.deephash_pytorch, None, "map@all|ties=storage|den=hits|zero=0|dist=hamming"),
        (conventions.spq, 4, "map@4|ties=storage|den=hits|zero=0|dist=aqd"),
        (conventions.spq, 50, "map@all(50)|ties=storage|den=hits|zero=0|dist=aqd"),
        (conventions.thulab, 2, "map@2|ties=storage|den=hits|zero=excluded|dist=hamming"),
        (conventions.fire, -1, "map@all|ties=storage|den=hits|zero=0|dist=hamming"),
        (conventions.mecoq, 0, "map@all|ties=storage|den=hits|zero=0|dist=aqd"),
        (conventions.talr, None, "map@all|ties=expected|den=all|zero=trailing|dist=hamming"),
    ],
)
def test_metric_id_names_the_convention(convention, top_k, metric):
    got = score(convention, DISTANCES, RELEVANT, top_k)
    assert got.metric == f"{metric}|as={convention.name}"


@pytest.mark.parametrize(
    ("convention", "top_k", "message"),
    [
        (conventions.deephash_pytorch, 0, "must leave at least one of 4 items, got 0"),
        (conventions.deephash_pytorch, -4, "must leave at least one of 4 items, got -4"),
        (conventions.deephash_pytorch, 2.0, "top_k must be an integer or None, got 2.0"),
        (conventions.thulab, -1, "top_k must be from 1 to 4, the items in a ranking, got -1"),
        (conventions.thulab, 5, "got 5"),
        (conventions.thulab, None, "got None"),
        (conventions.orthohash, True, "top_k must be an integer or None, got True"),
        (conventions.orthohash, -1, "got -1"),
        (conventions.fire, -2, "got -2"),
        (conventions.mecoq, 5, "got 5"),
        (conventions.talr, 3, "top_k must be None, since the original ignores it, got 3"),
    ],
)
def test_cuts_without_a_number_in_the_original_are_refused(convention, top_k, message):
    with pytest.raises(ValueError, match=message):
        score(convention, DISTANCES, RELEVANT, top_k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "aqd"}, "distance must be one of 'hamming', got 'aqd'"),
        ({"relevant": RELEVANT.T}, "relevant must have the shape of distances"),
        ({"relevant": RELEVANT.astype(int)}, "relevant must be bool, got int64"),
        ({"distances": DISTANCES * np.nan}, "got NaN in row 0"),
        ({"distances": DISTANCES[:0], "relevant": RELEVANT[:0]}, r"one row, got \(0, 4\)"),
    ],
)
def test_input_that_cannot_be_is_refused(change, message):
    arguments = {"distances": DISTANCES, "relevant": RELEVANT, "distance": "hamming", "top_k": 2}
    with pytest.raises(ValueError, match=message):
        metrics.mean_average_precision_as(conventions.deephash_pytorch, **(arguments | change))
