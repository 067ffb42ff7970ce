import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from quantjax.metrics import graded
from quantjax.metrics.levels import counts_from_distances, graded_counts_from_distances
from tests.metrics import orders

TIES = ("worst", "expected", "best")
# Two tied items of grade 0 and 2, then one of grade 1.
COUNTS = np.array([[[1, 0, 1], [0, 1, 0]]])
LOG3 = math.log2(3)
IDEAL = 3 + 1 / LOG3


@pytest.mark.parametrize(
    ("metric", "options", "due"),
    [
        (metrics.ndcg_from_counts, {}, [(3 / LOG3 + 1 / 2), (1.5 + 1.5 / LOG3 + 1 / 2), 3 + 1 / 2]),
        (metrics.ndcg_from_counts, {"top_k": 1}, [0, IDEAL / 2, IDEAL]),
        (metrics.acg_from_counts, {"top_k": 1}, [0, 1, 2]),
        (metrics.acg_from_counts, {"top_k": 2}, [1, 1, 1]),
        (metrics.acg_from_counts, {"top_k": 9}, [1, 1, 1]),
        (metrics.wap_from_counts, {}, [(1 + 1) / 2, (1 + 1.5) / 2, (2 + 1) / 2]),
        (metrics.wap_from_counts, {"top_k": 1}, [0, 1, 2]),
        (metrics.wap_from_counts, {"top_k": 1, "denominator": "all"}, [0, 0.5, 1]),
        (metrics.wap_from_counts, {"top_k": 2, "denominator": "hits"}, [1, 1.5, 2]),
        (metrics.wap_from_counts, {"top_k": 2, "denominator": "capped"}, [0.5, 0.75, 1]),
    ],
)
def test_values_made_by_hand(metric, options, due):
    got = [metric(COUNTS, ties=ties, **options)[0] for ties in TIES]
    scale = IDEAL if metric is metrics.ndcg_from_counts else 1
    np.testing.assert_allclose(got, np.array(due) / scale, rtol=1e-13)


def test_two_grades_make_wap_average_precision(rng):
    counts = orders.random_counts(rng, queries=30, levels=4, most=9)
    by_grade = np.stack([counts[..., 0] - counts[..., 1], counts[..., 1]], axis=-1)
    for denominator in ("hits", "capped", "all"):
        for ties in TIES:
            options = {"denominator": denominator, "ties": ties, "top_k": 11}
            due = metrics.average_precision_from_counts(counts, **options)
            got = metrics.wap_from_counts(by_grade, **options)
            np.testing.assert_allclose(got, due, rtol=1e-12, atol=1e-15)


def open_cut(rng, queries):
    """Counts [Q, 3, 4] in which a cut at 60 goes through the last level, of 200 items."""
    sizes = rng.choice([[30, 15], [0, 15], [1, 0], [0, 0]], queries)
    nearest = rng.multinomial(sizes[:, 0], rng.dirichlet([1.0, 1, 1, 1], queries))
    nearer = rng.multinomial(sizes[:, 1], rng.dirichlet([3.0, 0.3, 0.3, 0.3], queries))
    crossing = rng.multinomial(200, rng.dirichlet([0.5, 0.5, 0.1, 0.1], queries))
    return np.stack([nearest, nearer, crossing], axis=1)


def extremes_by_scan(counts, top_k):
    """(worst, best) over every possible number of hits, items one by one."""
    *nearer, crossing = ([g for g, n in enumerate(level) for _ in range(n)] for level in counts)
    room = top_k - sum(map(len, nearer))
    hits = [grade for grade in crossing if grade]
    misses = len(crossing) - len(hits)
    values = []
    rising = [grade for level in nearer for grade in sorted(level)]
    falling = [grade for level in nearer for grade in sorted(level, reverse=True)]
    for k in range(max(0, room - misses), min(room, len(hits)) + 1):
        lowest = rising + [0] * (room - k) + hits[:k]
        highest = falling + hits[::-1][:k] + [0] * (room - k)
        for ranking in (lowest, highest):
            grades = np.array(ranking)
            means = np.cumsum(grades) / np.arange(1, top_k + 1)
            values.append(means[grades > 0].mean() if grades.any() else 0.0)
    return min(values), max(values)


def test_extremes_over_hits_equal_a_scan_of_all_numbers_of_hits(rng):
    counts = open_cut(rng, 50)
    due = np.array([extremes_by_scan(query, 60) for query in counts])
    for as_array, accuracy in [(np.asarray, 1e-12), (jnp.asarray, 3e-6)]:
        for ties, value in zip(("worst", "best"), due.T, strict=True):
            got = metrics.wap_from_counts(as_array(counts), top_k=60, denominator="hits", ties=ties)
            np.testing.assert_allclose(got, value, rtol=accuracy)


def test_best_hits_may_lie_between_the_fewest_and_the_most():
    # Two items of grade 2, then ones of grade 1: 2 and 2, after which every further hit is less.
    counts = np.array([[[9, 5, 2]]])
    best = metrics.wap_from_counts(counts, top_k=6, denominator="hits", ties="best")
    np.testing.assert_allclose(best, [2], rtol=1e-14)
    # After one of grade 1 the mean rises up to four hits, 1, 3/2, 5/3 and 3/2, and falls then.
    counts = np.array([[[0, 1, 0], [9, 5, 2]]])
    best = metrics.wap_from_counts(counts, top_k=7, denominator="hits", ties="best")
    means = np.cumsum([1, 2, 2, 1, 1, 1, 1]) / np.arange(1, 8)
    by_hits = np.cumsum(means) / np.arange(1, 8)
    assert np.argmax(by_hits) == 3
    np.testing.assert_allclose(best, [by_hits[3]], rtol=1e-14)


def test_levels_by_grade_stand_in_the_named_order():
    levels = graded.graded_levels(np.array([[[2, 0, 1], [0, 3, 1]]]), "best")
    np.testing.assert_array_equal(levels.items, [[1, 0, 2, 1, 3, 0]])
    np.testing.assert_array_equal(levels.relevant, [[1, 0, 0, 1, 3, 0]])
    np.testing.assert_array_equal(levels.grades, [[2, 0, 0, 2, 3, 0]])
    np.testing.assert_array_equal(levels.grades_before, [[0, 2, 2, 2, 4, 7]])
    levels = graded.graded_levels(np.array([[[2, 0, 1], [0, 3, 1]]]), "worst")
    np.testing.assert_array_equal(levels.items, [[2, 0, 1, 0, 3, 1]])


def test_graded_counts_of_two_grades_are_the_binary_counts(rng):
    distances, grades = rng.integers(0, 4, (3, 20)) * 0.5, rng.integers(0, 2, (3, 20))
    due = jax.jit(counts_from_distances)(distances, grades > 0)
    count = jax.jit(functools.partial(graded_counts_from_distances, num_grades=2))
    got = np.asarray(count(distances, grades))
    np.testing.assert_array_equal(got.sum(-1), due[..., 0])
    np.testing.assert_array_equal(got[..., 1], due[..., 1])


def test_queries_in_groups_are_queries_at_once(rng, monkeypatch):
    distances, grades = rng.integers(0, 4, (5, 40)) * 0.5, rng.integers(0, 3, (5, 40))
    due = metrics.acg(distances, grades, num_grades=3, top_k=7)
    monkeypatch.setattr(metrics.running, "_COUNTS_AT_ONCE", 2 * 40 * 3)
    got = metrics.acg(distances[:3], grades[:3], num_grades=3, top_k=7)
    np.testing.assert_allclose(got, due[:3], rtol=1e-6)


@pytest.mark.parametrize("num_grades", [1, 65, 2.0, None])
def test_numbers_of_grades_that_cannot_be_are_refused(num_grades):
    with pytest.raises(ValueError, match="num_grades must be an integer from 2 to 64"):
        metrics.acg(np.zeros((1, 2)), np.array([[0, 1]]), num_grades=num_grades, top_k=1)


@pytest.mark.parametrize("grade", [-1, 3])
def test_grades_that_cannot_be_are_refused(grade):
    with pytest.raises(ValueError, match=r"grades must be from 0 to num_grades - 1 = 2, got"):
        metrics.acg(np.zeros((1, 2)), np.array([[0, grade]]), num_grades=3, top_k=1)


def test_the_largest_gains_stay_finite():
    counts = np.zeros((1, 2, 64), int)
    counts[0, 0, 0], counts[0, 1, 63] = 1, 30_000_000
    got = metrics.ndcg_from_counts(jnp.asarray(counts))
    np.testing.assert_allclose(got, metrics.ndcg_from_counts(counts), rtol=2e-6)
