"""Finds nearest neighbours in input space, which unsupervised methods use in place of labels."""

from typing import NamedTuple

import numpy as np

from quantjax.arrays import check_finite
from quantjax.errors import InputError


class Neighbours(NamedTuple):
    """Holds the k nearest rows of every row, nearest first.

    Attributes:
      rows: [N, k] int32; a row is not its own neighbour. Of equal distances the lower row comes
        first.
      distances: Euclidean, [N, k] float64.
    """

    rows: np.ndarray
    distances: np.ndarray


def nearest_neighbours(x: np.ndarray, *, num_neighbours: int) -> Neighbours:
    """Finds the exact k nearest rows of every row by Euclidean distance.

    Args:
      x: Rows [N, F], such as features or flattened images of the training set.
      num_neighbours: k.

    Returns:
      The neighbours.

    Raises:
      ValueError: if x is not finite or not [N, F], or k is not between 1 and N - 1.
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise InputError(f"x must have shape [N, F], got {x.shape}")
    if not 1 <= num_neighbours < len(x):
        raise InputError(f"num_neighbours must be between 1 and {len(x) - 1}, got {num_neighbours}")
    check_finite("x", x)
    x = _near_the_origin(x.astype(np.float64))
    squares = np.sum(x * x, axis=1)
    rows = np.zeros((len(x), num_neighbours), np.int32)
    distances = np.zeros(rows.shape)
    # In blocks of rows, so that memory grows with N and not with N^2.
    for start in range(0, len(x), 1024):
        some = np.arange(start, min(start + 1024, len(x)))
        squared = squares[some, None] + squares - 2 * x[some] @ x.T
        # A row is at distance 0 from itself, though rounding may say otherwise.
        squared[np.arange(len(some)), some] = np.inf
        # A stable sort, and not a partition, puts the lower of two equally distant rows first.
        order = np.argsort(squared, axis=1, kind="stable")[:, :num_neighbours]
        rows[some] = order
        nearest = np.take_along_axis(squared, order, axis=1)
        distances[some] = np.sqrt(np.maximum(nearest, 0))
    return Neighbours(rows, distances)


def _near_the_origin(x):
    """Subtracts the mean from rows that lie far from the origin compared with their spread.

    Far from the origin the terms of ||x||^2 - 2 <x, y> + ||y||^2 cancel and lose their digits.
    """
    mean = x.mean(axis=0)
    spread = np.mean(np.sum(np.square(x - mean), axis=1))
    return x - mean if np.sum(mean * mean) > _FAR * spread else x


_FAR = 64.0  # squared offset over squared spread
