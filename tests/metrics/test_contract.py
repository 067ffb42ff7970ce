"""What every ranking metric promises. A new metric is held to it by a row in METRICS."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from tests.metrics import definitions, orders

TIES = ("worst", "expected", "best")
GRADES = 3


class Metric(NamedTuple):
    name: str
    options: dict
    graded: bool = False
    has_cut: bool = True

    @property
    def from_counts(self) -> Callable:
        return functools.partial(getattr(metrics, f"{self.name}_from_counts"), **self.options)

    @property
    def from_distances(self) -> Callable:
        graded = {"num_grades": GRADES} if self.graded else {}
        return functools.partial(getattr(metrics, self.name), **self.options, **graded)

    @property
    def definition(self) -> Callable:
        return functools.partial(getattr(definitions, self.name), **self.options)

    def cuts(self, *top_ks):
        return [{"top_k": top_k} for top_k in top_ks] if self.has_cut else [{}]

    def random_counts(self, rng, **shape):
        draw = orders.random_graded_counts if self.graded else orders.random_counts
        return draw(rng, **shape)

    def rankings(self, counts):
        return (orders.graded_tie_orders if self.graded else orders.tie_orders)(counts)

    def as_one_level_each(self, ranking):
        """Counts of many rankings without ties: grades [Q, N] to [Q, N, 2 or G]."""
        if self.graded:
            return (ranking[..., None] == np.arange(GRADES)).astype(int)
        return np.stack([np.ones_like(ranking), ranking], axis=-1)


METRICS = {
    "precision": Metric("precision", {}),
    "recall": Metric("recall", {}),
    "hit_rate": Metric("hit_rate", {}),
    "reciprocal_rank": Metric("reciprocal_rank", {}),
    "r_precision": Metric("r_precision", {}, has_cut=False),
    "average_precision_at_r": Metric("average_precision_at_r", {}, has_cut=False),
    "ndcg": Metric("ndcg", {}, graded=True),
    "acg": Metric("acg", {}, graded=True),
    "wap_hits": Metric("wap", {"denominator": "hits"}, graded=True),
    "wap_capped": Metric("wap", {"denominator": "capped"}, graded=True),
    "wap_all": Metric("wap", {"denominator": "all"}, graded=True),
}

pytestmark = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def bounds(metric, counts, **options):
    return np.stack([metric.from_counts(counts, ties=ties, **options) for ties in TIES], axis=1)


def tied_rankings(rng):
    return rng.integers(0, 6, (8, 40)), rng.choice(GRADES, (8, 40), p=[0.6, 0.3, 0.1])


def counts_of(metric, levels, grades):
    at_level = levels[:, None] == np.arange(6)[:, None]
    if metric.graded:
        return (at_level[..., None] & (grades[:, None, :, None] == np.arange(GRADES))).sum(2)
    return np.stack([at_level.sum(-1), (at_level & (grades > 0)[:, None]).sum(-1)], axis=-1)


def relevance(metric, grades):
    return grades if metric.graded else grades > 0


@pytest.mark.parametrize(("levels", "most"), [(2, 5), (4, 3), (1, 7)])
def test_bounds_equal_enumeration_of_all_tie_orders(rng, metric, levels, most):
    counts = metric.random_counts(rng, queries=25, levels=levels, most=most)
    counts = counts[counts.sum((1, 2)) > 0]
    for cut in metric.cuts(None, 1, 2, 3, 5, 9, 100):
        got = bounds(metric, counts, **cut)
        value = functools.partial(metric.definition, **cut)
        due = [orders.bounds_over(metric.rankings(query), value) for query in counts]
        np.testing.assert_allclose(got, due, rtol=1e-11, atol=1e-15)


def test_expectation_agrees_with_shuffled_ties(rng, metric):
    sizes = [[8, 5, 2], [9, 0, 0], [30, 20, 5], [20, 5, 5]]
    grades = [np.repeat(np.arange(GRADES), size) for size in sizes]
    grades = grades if metric.graded else [(part > 0).astype(int) for part in grades]
    levels = np.repeat(np.arange(4), [len(part) for part in grades])[None]
    counts = counts_of(metric, levels, np.concatenate(grades)[None])
    shuffles = 2000
    tiled = [rng.permuted(np.tile(part, (shuffles, 1)), axis=1) for part in grades]
    untied = metric.as_one_level_each(np.concatenate(tiled, axis=1))
    for cut in metric.cuts(7, 50):
        samples = metric.from_counts(untied, **cut)
        got = metric.from_counts(counts, **cut)
        assert abs(got[0] - samples.mean()) < 4 * samples.std() / np.sqrt(shuffles) + 1e-12


def test_worst_to_best_are_in_order(rng, metric):
    counts = metric.random_counts(rng, queries=40, levels=9, most=200)
    for cut in metric.cuts(None, 10, 300):
        worst, expected, best = bounds(metric, counts, **cut).T
        assert np.all(worst <= expected + 1e-12)
        assert np.all(expected <= best + 1e-12)


# Two orders of ties: the metric of counts below has all three, and is the same function.
@pytest.mark.parametrize("ties", ["expected", "best"])
@pytest.mark.by_default("expected-wap_capped", "best-wap_hits", "expected-ndcg", "best-recall")
def test_distance_form_equals_count_form_in_any_order_of_storage(rng, metric, ties):
    levels, grades = tied_rankings(rng)
    counts = counts_of(metric, levels, grades)
    order = rng.permutation(40)
    for cut in metric.cuts(13):
        due = metric.from_counts(counts, ties=ties, **cut)
        distances = 0.25 * levels - 1
        got = metric.from_distances(distances, relevance(metric, grades), ties=ties, **cut)
        np.testing.assert_allclose(got, due, rtol=2e-6, atol=1e-9)
        moved = relevance(metric, grades[:, order])
        moved = metric.from_distances(distances[:, order], moved, ties=ties, **cut)
        np.testing.assert_array_equal(moved, got)
        assert (due.dtype, got.dtype) == (np.float64, jnp.float32)


def test_dtypes_are_the_same_under_x64(rng, metric):
    levels, grades = tied_rankings(rng)
    counts = counts_of(metric, levels, grades)
    with jax.enable_x64(True):
        for cut in metric.cuts(13):
            for distances in (np.float32(levels), np.float64(levels)):
                function = functools.partial(metric.from_distances, **cut)
                got = jax.eval_shape(function, distances, relevance(metric, grades))
                assert got.dtype == jnp.float32
            got = jax.eval_shape(functools.partial(metric.from_counts, **cut), counts)
            assert got.dtype == jnp.float32


def test_parting_a_level_stays_within_its_bounds(rng, metric):
    levels, grades = tied_rankings(rng)
    counts = counts_of(metric, levels, grades)
    parted = counts_of(metric, 2 * (levels // 2) + rng.integers(0, 2, levels.shape), grades)
    whole = parted.reshape(len(counts), 3, 2, -1).sum(2)
    for cut in metric.cuts(None, 13):
        worst, _, best = bounds(metric, whole, **cut).T
        narrower = bounds(metric, parted, **cut)
        assert np.all(worst[:, None] <= narrower + 1e-12)
        assert np.all(narrower <= best[:, None] + 1e-12)
        if cut != {"top_k": None} and metric.name != "hit_rate":
            assert np.any(narrower[:, 2] - narrower[:, 0] < best - worst)


def test_empty_levels_change_nothing(rng, metric):
    counts = counts_of(metric, *tied_rankings(rng))
    spread = np.zeros((len(counts), 13, counts.shape[2]), int)
    spread[:, 1::2] = counts
    for cut in metric.cuts(13):
        got, due = bounds(metric, spread, **cut), bounds(metric, counts, **cut)
        np.testing.assert_allclose(got, due, rtol=1e-14)


@pytest.mark.by_default("precision", "ndcg", "wap_hits")
def test_jit_changes_nothing(rng, metric):
    levels, grades = tied_rankings(rng)
    for cut in metric.cuts(13):
        function = functools.partial(metric.from_distances, **cut)
        arguments = jnp.asarray(0.25 * levels - 1), jnp.asarray(relevance(metric, grades))
        # Traced as under jit, but run as it is: the program of the test above, not a second one.
        traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(function)(*arguments))
        np.testing.assert_array_equal(traced(*arguments)[0], function(*arguments))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.by_default(
    "expected-precision",
    "expected-hit_rate",
    "expected-reciprocal_rank",
    "expected-ndcg",
    "expected-average_precision_at_r",
    "expected-wap_hits",
)
def test_jax_counts_agree_with_numpy_counts_at_scale(rng, metric, ties):
    items = rng.integers(0, 3000, (16, 33))
    high = rng.binomial(items, np.linspace(0.1, 0.0, 33))
    low = rng.binomial(items - high, np.linspace(0.3, 0.0, 33))
    high[5:7], low[5:7], items[6] = 0, 0, 0
    items[7, 4:], high[7, 4:], low[7, 4:] = 0, 0, 0  # all of them inside the cut
    parts = [items - high - low, low, high] if metric.graded else [items, high + low]
    counts = np.stack(parts, axis=-1)
    for cut in metric.cuts(20_000):
        function = functools.partial(metric.from_counts, ties=ties, **cut)
        due, got = function(counts), function(jnp.asarray(counts))
        assert (due.dtype, got.dtype) == (np.float64, jnp.float32)
        np.testing.assert_allclose(got, due, rtol=2e-6)
        np.testing.assert_array_equal(got[5:7], 0)
        np.testing.assert_allclose(due[7:8], function(counts[7:8]), rtol=1e-11)


@pytest.mark.by_default("precision", "reciprocal_rank", "wap_hits")
def test_traced_counts_agree_with_numpy_counts(rng, metric):
    counts = counts_of(metric, *tied_rankings(rng))
    for cut in metric.cuts(10**12):
        function = functools.partial(metric.from_counts, **cut)
        got = jax.jit(function)(jnp.asarray(counts))
        np.testing.assert_allclose(got, function(counts), rtol=2e-6)


@pytest.mark.by_default("average_precision_at_r", "ndcg")
def test_60000_items_without_ties_are_the_definition(rng, metric):
    share = np.array([[0.1, 0.1], [0.001, 0.0], [0.0, 0.0002], [0.3, 0.7]])[:, :, None]
    draw = rng.random((4, 60_000))
    grades = (draw < share.sum(1)).astype(int) + (draw < share[:, 0])
    grades = grades if metric.graded else (grades > 0).astype(int)
    untied = metric.as_one_level_each(grades)
    # Below, what a loop over 60,000 ranks would say: the definitions are quadratic in it.
    precision = np.cumsum(grades, axis=1) / np.arange(1, 60_001)
    hits = grades > 0
    total = np.maximum(hits.sum(1), 1)
    ideal = -np.sort(-grades, axis=1)
    discount = 1 / np.log2(np.arange(2, 60_002))
    weighted = (precision * hits).sum(1)
    due = {
        "precision": precision[:, -1],
        "recall": hits.any(1),
        "hit_rate": hits.any(1),
        "reciprocal_rank": hits.any(1) / (hits.argmax(1) + 1),
        "r_precision": precision[np.arange(4), total - 1],
        "average_precision_at_r": [
            (precision * hits)[row, :cut].sum() / cut for row, cut in enumerate(total)
        ],
        "ndcg": ((2.0**grades - 1) * discount).sum(1) / ((2.0**ideal - 1) * discount).sum(1),
        "acg": precision[:, -1],
        "wap": weighted / total,
    }[metric.name]
    for cut in metric.cuts(None):
        np.testing.assert_allclose(metric.from_counts(untied, **cut), due, rtol=1e-11)
        order = rng.permutation(60_000)
        distances = np.broadcast_to(order.astype(np.float32), grades.shape)
        got = metric.from_distances(distances, relevance(metric, grades[:, order]), **cut)
        np.testing.assert_allclose(got, due, rtol=2e-6)


def test_options_change_the_number(metric):
    low, high = np.array([[2, 3, 1]]), np.array([[2, 2, 2]])
    counts = np.stack([[[5, 2, 1]], low, high], axis=-1)
    if not metric.graded:
        counts = np.stack([counts.sum(-1), low + high], axis=-1)
    values = np.concatenate([bounds(metric, counts, **cut) for cut in metric.cuts(4, 12)])
    assert np.all(np.diff(values[0]) > 0)
    assert len(np.unique(np.round(values[:, 1], 9))) == len(values)


def test_a_cut_beyond_the_last_item_is_no_cut(rng, metric):
    counts = metric.random_counts(rng, queries=6, levels=4, most=9)
    most = int((counts.sum((1, 2)) if metric.graded else counts[..., 0].sum(1)).max())
    for no_cut, *beyond in [metric.cuts(None, most, most + 1, 10**12)]:
        whole = bounds(metric, counts, **no_cut)
        for cut in beyond:
            np.testing.assert_array_equal(bounds(metric, counts, **cut), whole)
        # Beside a longer ranking the cut stays, and is still no cut for the shorter ones.
        for cut in beyond[:1]:
            got = bounds(metric, np.concatenate([counts, 5 * counts]), **cut)[:6]
            np.testing.assert_allclose(got, whole, rtol=1e-11)


@pytest.mark.parametrize("ties", TIES)
def test_nothing_relevant_and_no_items_count_as_zero(metric, ties):
    counts = np.zeros((2, 3, GRADES if metric.graded else 2), int)
    counts[0, :2, 0] = 900, 3
    for cut in metric.cuts(None, 4):
        np.testing.assert_array_equal(metric.from_counts(counts, ties=ties, **cut), [0, 0])
        assert metric.from_counts(counts[:0], ties=ties, **cut).shape == (0,)


@pytest.mark.by_default("precision", "ndcg", "wap_hits")
def test_inputs_are_read_only(rng, metric):
    levels, grades = tied_rankings(rng)
    arrays = levels.astype(float), relevance(metric, grades), counts_of(metric, levels, grades)
    for array in arrays:
        array.flags.writeable = False
    for cut in metric.cuts(13):
        metric.from_distances(*arrays[:2], **cut)
        metric.from_counts(arrays[2], **cut)


def test_what_cannot_be_is_refused(metric):
    distances = np.array([[0.5, 1.0, 1.0], [2.0, 0.0, 0.25]])
    relevant = np.array([[1, 0, 1], [0, 0, 2]])
    relevant = relevant if metric.graded else relevant > 0
    counts = np.array([[[3, 1, 0], [1, 1, 0]]])[..., : 3 if metric.graded else 2]
    name = "grades" if metric.graded else "relevant"
    cut = metric.cuts(2)[0]
    for arguments, message in [
        ((distances[0], relevant[0]), r"distances must have shape \[Q, N\].*got \(3,\)"),
        ((distances, relevant.T), f"{name} must have the shape of distances"),
        ((distances, relevant * 1.0), f"{name} must be .*, got float64"),
        ((distances * [[1], [np.nan]], relevant), r"NaN in row 1 \(1 of 2 rows\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.from_distances(*arguments, **cut)
    for wrong, message in [
        (counts[0], r"counts must have shape \[Q, levels, .\].* got \(2, .\)"),
        (counts[..., :1], r"got \(1, 2, 1\)"),
        (counts * 1.0, "counts must be integers, got float64"),
        (np.concatenate([counts, -counts]), "row 1"),
        (counts * 2**30, r"less than 2\^31"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.from_counts(wrong, **cut)
    wrong_options = [({"ties": "stable"}, "ties must be one of")]
    if metric.has_cut:
        wrong_options.append(({"top_k": 0}, "top_k must be an integer of at least 1"))
    for options, message in wrong_options:
        with pytest.raises(ValueError, match=message):
            metric.from_counts(counts, **(cut | options))
        with pytest.raises(ValueError, match=message):
            metric.from_distances(distances, relevant, **(cut | options))
