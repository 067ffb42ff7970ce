import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics

DISTANCES = np.array([[0.5, 1.0, 1.0], [2.0, 0.0, 0.25]])
RELEVANT = np.array([[True, False, True], [False, False, True]])
COUNTS = np.array([[[3, 1], [1, 1]]])


@pytest.mark.parametrize(
    ("distances", "relevant", "message"),
    [
        (DISTANCES[0], RELEVANT[0], r"distances must have shape \[Q, N\].*got \(3,\)"),
        (DISTANCES[:, :0], RELEVANT[:, :0], r"at least one item, got \(2, 0\)"),
        (DISTANCES, RELEVANT.T, r"relevant must have the shape of distances, \(2, 3\), got \(3, 2"),
        (DISTANCES, RELEVANT.astype(int), "relevant must be bool, got int64"),
        (DISTANCES + 1j, RELEVANT, "distances must be real numbers, got complex128"),
        (RELEVANT, RELEVANT, "distances must be real numbers, got bool"),
        (np.full((2, 3), 2**31), RELEVANT, "integer distances must fit in int32, got 2147483648"),
        (DISTANCES * [[1], [np.nan]], RELEVANT, r"NaN in row 1 \(1 of 2 rows\)"),
        (jnp.array(DISTANCES * [[np.nan], [1]]), RELEVANT, "NaN in row 0"),
    ],
)
def test_distances_that_cannot_be_are_refused(distances, relevant, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(distances, relevant)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (COUNTS[0], r"counts must have shape \[Q, levels, 2\], got \(2, 2\)"),
        (COUNTS[..., :1], r"got \(1, 2, 1\)"),
        (COUNTS[:, :0], r"got \(1, 0, 2\)"),
        (COUNTS * 1.0, "counts must be integers, got float64"),
        (COUNTS[..., ::-1] + [[0, 1]], "row 0 does not"),
        (np.concatenate([COUNTS, -COUNTS]), "row 1 does not"),
        (jnp.array([[[1, 2]]]), "row 0 does not"),
        (np.array([[[2**30, 0], [2**30, 0]]]), "less than 2\\^31 items a query, got 2147483648"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision_from_counts(counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ties": "stable"}, "ties must be one of 'expected', 'best', 'worst', got 'stable'"),
        ({"denominator": "K"}, "denominator must be one of 'hits', 'capped', 'all', got 'K'"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, or None for all items, got 0"),
        ({"top_k": -1}, "got -1"),
        ({"top_k": 2.0}, "got 2.0"),
        ({"top_k": True}, "got True"),
    ],
)
def test_options_that_are_unknown_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(DISTANCES, RELEVANT, **options)
    with pytest.raises(ValueError, match=message):
        metrics.average_precision_from_counts(COUNTS, **options)


@pytest.mark.parametrize(
    ("num_relevant", "num_items", "message"),
    [
        (np.array([[1]]), 5, r"num_relevant must be integers \[Q\], got int64 \(1, 1\)"),
        (np.array([0.5]), 5, "got float64"),
        (np.array([1]), 5.0, "num_items must be an integer from 1"),
        (np.array([0]), 0, "got 0"),
        (np.array([2, 6]), 5, "num_relevant must be from 0 to num_items = 5, got 2 to 6"),
    ],
)
def test_chance_refuses_numbers_that_cannot_be(num_relevant, num_items, message):
    with pytest.raises(ValueError, match=message):
        metrics.chance(num_relevant, num_items)


def test_infinite_distances_are_ranked():
    distances = np.array([[np.inf, 1.0, -np.inf, np.inf]])
    relevant = np.array([[True, False, True, False]])
    due = (1 + (2 / 3 + 2 / 4) / 2) / 2
    np.testing.assert_allclose(metrics.average_precision(distances, relevant), [due], rtol=1e-6)


def test_no_queries_are_no_values():
    got = metrics.average_precision(DISTANCES[:0], RELEVANT[:0])
    assert got.shape == (0,)
    assert metrics.average_precision_from_counts(COUNTS[:0]).shape == (0,)


def test_traced_values_pass_the_checks():
    got = jax.jit(metrics.average_precision)(DISTANCES, RELEVANT)
    np.testing.assert_allclose(got, metrics.average_precision(DISTANCES, RELEVANT), rtol=1e-6)
