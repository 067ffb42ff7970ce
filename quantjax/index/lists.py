"""Inverted lists: coarse cells of the database, of which a search scans only the nearest."""

from typing import NamedTuple

import numpy as np


class InvertedLists(NamedTuple):
    """Holds the coarse cells that an index's codes are sorted by.

    The codes are those of residuals: vectors minus the centroid of their list.

    Attributes:
      centroids: Centres of the cells, [L, D] float32.
      starts: First row of each list, and the number of rows at the end, [L + 1] int64.
    """

    centroids: np.ndarray
    starts: np.ndarray
