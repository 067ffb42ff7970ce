"""Nearest neighbours equal a loop's, ties have a fixed order, and wrong inputs raise errors."""

import numpy as np
import pytest

from quantjax import data


@pytest.mark.parametrize(("num_rows", "k"), [(40, 3), (1100, 7)])
def test_neighbours_equal_brute_force(num_rows, k, rng):
    x = rng.normal(size=(num_rows, 5))
    found = data.nearest_neighbours(x, num_neighbours=k)
    for row in range(0, num_rows, 37):
        distances = np.sqrt(np.sum((x - x[row]) ** 2, axis=1))
        distances[row] = np.inf
        order = np.argsort(distances)[:k]
        np.testing.assert_array_equal(found.rows[row], order)
        np.testing.assert_allclose(found.distances[row], distances[order], atol=1e-9)


def test_a_row_is_not_its_own_neighbour_and_ties_go_to_the_lower_row():
    found = data.nearest_neighbours(np.array([[0], [1], [2], [1]]), num_neighbours=2)
    np.testing.assert_array_equal(found.rows, [[1, 3], [3, 0], [1, 3], [1, 0]])
    np.testing.assert_array_equal(found.distances, [[1, 1], [0, 1], [1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [
        ((4, 2), 4, "num_neighbours must be between 1 and 3, got 4"),
        ((4, 2), 0, "num_neighbours must be between 1 and 3, got 0"),
        ((4, 2, 1), 1, r"x must have shape \[N, F\], got \(4, 2, 1\)"),
    ],
)
def test_what_has_no_neighbours_is_refused(shape, k, message):
    with pytest.raises(ValueError, match=message):
        data.nearest_neighbours(np.zeros(shape), num_neighbours=k)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_have_no_neighbours(value, rng):
    x = rng.normal(size=(6, 2))
    x[4, 1] = value
    with pytest.raises(ValueError, match=r"x must be numbers, got (NaN|inf) in row 4 \(1 of 6"):
        data.nearest_neighbours(x, num_neighbours=2)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e7])
def test_neighbours_far_from_the_origin_keep_their_digits(offset, rng):
    x = np.round(rng.normal(size=(60, 5)), 3) + offset
    found = data.nearest_neighbours(x, num_neighbours=3)
    gaps = np.linalg.norm(x[:, None] - x, axis=-1)
    np.fill_diagonal(gaps, np.inf)
    np.testing.assert_allclose(found.distances, np.sort(gaps, axis=1)[:, :3], atol=1e-6)
