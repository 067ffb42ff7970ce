"""Nearest neighbours in input space: what unsupervised methods have in place of labels."""

from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.finite import check_finite


class Neighbours(NamedTuple):
    """The nearest rows of every row, nearest first.

    Attributes:
      rows: [N, k] int32; a row is not its own neighbour, of equal distances the lower row is first.
      distances: Euclidean, [N, k] float64.
    """

    rows: np.ndarray
    distances: np.ndarray


def nearest_neighbours(x: np.ndarray, *, num_neighbours: int) -> Neighbours:
    """Finds the k nearest rows of every row by Euclidean distance, exactly.

    Args:
      x: Rows [N, F], such as features or flattened images of the training set.
      num_neighbours: k.

    Returns:
      The neighbours.

    Raises:
      ValueError: if x is not [N, F], or k not between 1 and N - 1.
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
    for start in range(0, len(x), 1024):
        some = np.arange(start, min(start + 1024, len(x)))
        squared = squares[some, None] + squares - 2 * x[some] @ x.T
        squared[np.arange(len(some)), some] = np.inf
        order = np.argsort(squared, axis=1, kind="stable")[:, :num_neighbours]
        rows[some] = order
        nearest = np.take_along_axis(squared, order, axis=1)
        distances[some] = np.sqrt(np.maximum(nearest, 0))
    return Neighbours(rows, distances)


def _near_the_origin(x):
    """Returns the rows less their mean, if they lie far from the origin for their spread.

    There the squares of ||x||^2 - 2 <x, y> + ||y||^2 cancel, and take the digits with them.
    """
    mean = x.mean(axis=0)
    spread = np.mean(np.sum(np.square(x - mean), axis=1))
    return x - mean if np.sum(mean * mean) > _FAR * spread else x


_FAR = 64.0  # squared offset over squared spread
