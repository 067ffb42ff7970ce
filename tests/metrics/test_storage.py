import numpy as np
import pytest

from quantjax.metrics import conventions


def ranked_by_loops(distances, relevant):
    """Relevance and level ends along each ranking, by Python's stable sort."""
    hits, ends = np.zeros(distances.shape, bool), np.zeros(distances.shape, bool)
    for row, (near, is_relevant) in enumerate(zip(distances, relevant, strict=True)):
        order = sorted(range(len(near)), key=lambda item: float(near[item]))
        hits[row] = [is_relevant[item] for item in order]
        ends[row, -1] = True
        for rank in range(len(order) - 1):
            ends[row, rank] = near[order[rank]] != near[order[rank + 1]]
    return hits, ends


DISTANCES = {
    "hamming": lambda rng: rng.integers(0, 5, (6, 40)),
    "unsigned": lambda rng: rng.integers(0, 250, (6, 40)).astype(np.uint8),
    "far integers": lambda rng: rng.integers(-(2**31), 2**31, (6, 40)),
    "half integers": lambda rng: rng.integers(-4, 4, (6, 40)) / 2,
    "float32": lambda rng: rng.standard_normal((6, 40)).astype(np.float32),
    "float16": lambda rng: rng.standard_normal((6, 40)).astype(np.float16),
    "float64": lambda rng: rng.standard_normal((6, 10)).repeat(4, axis=1),
    "huge": lambda rng: rng.standard_normal((6, 40)) * 1e300,
    "special": lambda rng: rng.choice([-np.inf, -1.0, -0.0, 0.0, 2.0**-149, 2.0, np.inf], (6, 40)),
    "one item": lambda rng: rng.standard_normal((6, 1)),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_ranking_equals_pythons_stable_sort(rng, name):
    distances = DISTANCES[name](rng)
    relevant = rng.random(distances.shape) < 0.4
    ranked = conventions.rank_as_stored(distances, relevant)
    hits, ends = ranked_by_loops(distances, relevant)
    assert ranked.shape == distances.shape
    np.testing.assert_array_equal(ranked.hits, np.flatnonzero(hits))
    np.testing.assert_array_equal(ranked.ends, np.flatnonzero(ends))


@pytest.mark.parametrize("top_k", [1, 4, 15])
def test_precision_sums_equal_a_loop(rng, top_k):
    relevant = rng.random((20, 15)) < np.linspace(0, 1, 20)[:, None]
    ranked = conventions.rank_as_stored(np.tile(np.arange(15), (20, 1)), relevant)
    sums, found = conventions.sum_precisions(ranked, top_k)
    hits = relevant[:, :top_k]
    due = [sum(row[: rank + 1].mean() for rank in np.flatnonzero(row)) for row in hits]
    np.testing.assert_allclose(sums, due, rtol=1e-14)
    np.testing.assert_array_equal(found, hits.sum(axis=1))


@pytest.mark.parametrize("top_k", [12, 5, 1])
def test_level_counts_equal_a_count_of_each_distance_that_matters(rng, top_k):
    distances = np.sort(rng.integers(0, 6, (9, 12)) * np.arange(9)[:, None], axis=1)[::-1]
    relevant = rng.random((9, 12)) < 0.5
    counts = conventions.count_levels(conventions.rank_as_stored(distances, relevant), top_k)
    for near, is_relevant, got in zip(distances, relevant, counts, strict=True):
        due, kind, total = [], None, 0
        for value in np.unique(near):
            level = np.array([np.sum(near == value), np.sum(is_relevant[near == value])])
            before = kind
            kind = "behind" if total >= top_k else "empty" if level[1] == 0 else None
            if kind is not None and kind == before:
                due[-1] += level
            else:
                due.append(level)
            total += level[0]
        np.testing.assert_array_equal(got[: len(due)], due)
        assert not got[len(due) :].any()
