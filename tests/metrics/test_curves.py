import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import metrics

# Distance 0 is empty, 1 holds three items with one relevant, 2 holds one, 3 two with one.
COUNTS = np.array([[[0, 0], [3, 1], [1, 1], [2, 1]]])
DISTANCES = np.array([[2, 1, 3, 1, 3, 1]])
RELEVANT = np.array([[True, False, True, True, False, False]])


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_curve_by_radius_made_by_hand(as_array):
    precision, recall = metrics.precision_recall_curve_from_counts(as_array(COUNTS))
    np.testing.assert_allclose(precision, [[0, 1 / 3, 2 / 4, 3 / 6]], rtol=1e-6)
    np.testing.assert_allclose(recall, [[0, 1 / 3, 2 / 3, 1]], rtol=1e-6)
    assert precision.dtype == recall.dtype == (np.float64 if as_array is np.asarray else np.float32)


def test_curve_without_relevant_items_is_zero():
    got = metrics.precision_recall_curve_from_counts(np.array([[[3, 0], [1, 0]]]))
    np.testing.assert_array_equal(got, np.zeros((2, 1, 2)))


@pytest.mark.parametrize("ties", ["worst", "expected", "best"])
def test_curve_at_cuts_equals_each_cut_alone(rng, ties):
    levels, relevant = rng.integers(0, 6, (8, 40)), rng.random((8, 40)) < [[0.3]] * 7 + [[0.0]]
    at_level = levels[:, None] == np.arange(6)[:, None]
    counts = np.stack([at_level.sum(-1), (at_level & relevant[:, None]).sum(-1)], axis=-1)
    cuts = [7, 1, 13, 40, 1000]
    curve = metrics.precision_recall_curve(0.25 * levels, relevant, cuts=cuts, ties=ties)
    for place, top_k in enumerate(cuts):
        precision = metrics.precision_from_counts(counts, top_k=top_k, ties=ties)
        np.testing.assert_allclose(curve.precision[:, place], precision, rtol=1e-6)
        recall = metrics.recall_from_counts(counts, top_k=top_k, ties=ties)
        np.testing.assert_allclose(curve.recall[:, place], recall, rtol=1e-6)
    np.testing.assert_array_equal(curve.precision[7], 0)


def test_curve_at_cuts_is_jittable():
    function = functools.partial(metrics.precision_recall_curve, cuts=[2, 3])
    got = jax.jit(function)(DISTANCES, RELEVANT)
    np.testing.assert_allclose(got.precision, [[1 / 3, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(got.recall, [[2 / 9, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 300, 2**40])
def test_ball_equals_the_curve_at_its_radius(radius):
    curve = metrics.precision_recall_curve_from_counts(COUNTS).precision
    due = curve[:, min(radius, 3)]
    for as_array in (np.asarray, jnp.asarray):
        got = metrics.precision_within_radius_from_counts(as_array(COUNTS), radius=radius)
        np.testing.assert_allclose(got.value, due, rtol=1e-6)
        np.testing.assert_array_equal(got.empty, [radius == 0])
    for dtype in (np.int64, np.uint8):
        distances = DISTANCES.astype(dtype)
        got = metrics.precision_within_radius(distances, RELEVANT, radius=radius)
        np.testing.assert_allclose(got.value, due, rtol=1e-6)
        np.testing.assert_array_equal(got.empty, [radius == 0])


@pytest.mark.parametrize("radius", [-1, 1.0, True, None])
def test_radius_that_cannot_be_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be an integer of at least 0, got"):
        metrics.precision_within_radius(DISTANCES, RELEVANT, radius=radius)
    with pytest.raises(ValueError, match="radius must be an integer of at least 0, got"):
        metrics.precision_within_radius_from_counts(COUNTS, radius=radius)


def test_real_distances_have_no_radius():
    with pytest.raises(ValueError, match=r"distances must be integers .* got float64"):
        metrics.precision_within_radius(1.0 * DISTANCES, RELEVANT, radius=2)


@pytest.mark.parametrize("cuts", [3, [0, 1], [1.5], [[1, 2]]])
def test_cuts_that_cannot_be_are_refused(cuts):
    with pytest.raises(ValueError, match="cuts must be integers of at least 1 in one row"):
        metrics.precision_recall_curve(DISTANCES, RELEVANT, cuts=cuts)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64"])
def test_a_radius_and_distances_wrap_in_no_type(dtype):
    most = min(np.iinfo(dtype).max, 2**33)
    with jax.enable_x64(dtype == "int64"):
        distances = jnp.asarray(np.array([[0, 3, most]]).astype(dtype))
        relevant = jnp.array([[True, False, True]])
        near = metrics.precision_within_radius(distances, relevant, radius=3)
        far = metrics.precision_within_radius(distances, relevant, radius=2**40)
    np.testing.assert_allclose(near.value, [1 / 2])
    np.testing.assert_allclose(far.value, [2 / 3], rtol=1e-6)
