import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics
from quantjax.metrics.levels import counts_from_distances, dense_ranks, levels_from_counts

# Every public metric of real distances. A set within a radius takes integers only.
OF_DISTANCES = [
    name
    for name in metrics.__all__
    if inspect.isfunction(getattr(metrics, name))
    and "distances" in inspect.signature(getattr(metrics, name)).parameters
    and name not in ("precision_within_radius", "rerank")
]


def measure(name, distances, grades, **options):
    """Calls a metric with values for whatever else it takes, and returns its numbers."""
    function = getattr(metrics, name)
    marks = grades if "grades" in inspect.signature(function).parameters else grades > 0
    settings = {"top_k": 3, "num_grades": 3, "cuts": [1, 5, 9], "distance": "float"} | options
    taken = inspect.signature(function).parameters.keys() & settings.keys()
    arguments = distances, marks
    if name == "mean_average_precision_as":
        arguments = metrics.conventions.fire, distances, marks
    found = function(*arguments, **{key: settings[key] for key in taken})
    return [part for part in jax.tree.leaves(found) if not isinstance(part, str)]


@pytest.fixture
def nearly_equal(rng):
    """Ranks with ties, distances 1 + 1e-12 of a rank apart, and grades."""
    ranks = rng.integers(0, 9, (6, 20)).astype(np.int32)
    return ranks, 1 + 1e-12 * ranks, rng.choice(3, (6, 20), p=[0.85, 0.1, 0.05])


# In one order of ties: distances are ranked before a metric sees them.
@pytest.mark.parametrize("name", OF_DISTANCES)
@pytest.mark.by_default(
    "average_precision", "ndcg", "precision_recall_curve", "mean_average_precision_as"
)
def test_float64_distances_are_ranked_without_rounding(name, nearly_equal):
    ranks, distances, grades = nearly_equal
    due = measure(name, ranks, grades, ties="worst")
    one_level = measure(name, np.zeros_like(ranks), grades, ties="worst")
    got = measure(name, distances, grades, ties="worst")
    for one, other in zip(got, due, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(one != other) for one, other in zip(due, one_level, strict=True))


@pytest.mark.parametrize("name", ["average_precision", "ndcg", "precision_recall_curve"])
@pytest.mark.by_default("average_precision")
def test_float64_of_jax_is_ranked_without_rounding(name, nearly_equal):
    ranks, distances, grades = nearly_equal
    due = measure(name, ranks, grades)
    with jax.enable_x64(True):
        held = jnp.asarray(distances)
        got = measure(name, held, grades)
    assert held.dtype == np.float64
    for one, other in zip(got, due, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_reranking_settles_ties_without_rounding():
    near = np.array([[1 + 2e-12, 1.0, 1 + 1e-12, 1.0]])
    got = metrics.rerank(np.ones((1, 4), int), near, bits=8)
    np.testing.assert_array_equal(got, [[2, 0, 1, 0]])


@pytest.mark.parametrize("dtype", ["float64", "longdouble", "int64", "float32", "float16"])
def test_ranks_number_the_different_distances(dtype):
    distances = np.array([[3, -2, 0, -0.0, 3, 7], [1, 1, 1, 1, 1, 1]]).astype(dtype)
    got = dense_ranks(distances)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[2, 0, 1, 1, 2, 3], [0] * 6])


def test_ranks_tell_infinities_and_huge_numbers_apart():
    distances = np.array([[1e300, np.inf, -np.inf, 2e300, np.inf, 1e300]])
    np.testing.assert_array_equal(dense_ranks(distances), [[1, 3, 0, 2, 3, 1]])
    relevant = np.array([[False, False, False, True, False, False]])
    assert metrics.reciprocal_rank(distances, relevant) == 1 / 4


def test_ranks_of_many_queries_are_those_of_each(rng, monkeypatch):
    distances = rng.integers(0, 9, (7, 12)) * 1.0
    whole = dense_ranks(distances)
    monkeypatch.setattr("quantjax.metrics.levels._RANKED_AT_ONCE", 24)
    np.testing.assert_array_equal(dense_ranks(distances), whole)
    for row, got in zip(distances, whole, strict=True):
        np.testing.assert_array_equal(got, np.searchsorted(np.unique(row), row))


def test_equal_distances_share_a_level():
    distances = jnp.array([[0.5, -0.0, 0.5, jnp.inf, 0.0, -jnp.inf, jnp.inf]])
    relevant = jnp.array([[True, False, True, False, True, False, True]])
    counts = np.asarray(counts_from_distances(distances, relevant)[0])
    np.testing.assert_array_equal(counts[counts[:, 0] > 0], [[1, 0], [2, 1], [2, 2], [2, 1]])
    assert counts.shape == (7, 2)


def test_levels_hold_what_lies_strictly_nearer():
    levels = levels_from_counts(np.array([[[1, 1], [0, 0], [3, 2], [2, 1]]]))
    np.testing.assert_array_equal(levels.items_before, [[0, 1, 1, 4]])
    np.testing.assert_array_equal(levels.relevant_before, [[0, 1, 1, 3]])
