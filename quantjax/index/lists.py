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


def plan_probes(gaps: np.ndarray, starts: np.ndarray, top_k: int, num_probes: int) -> np.ndarray:
    """Chooses the lists that each query probes: the nearest, and more until they hold k items.

    Args:
      gaps: Distances of queries to centroids, [Q, L].
      starts: First row of each list, and the number of rows at the end, [L + 1].
      top_k: k, at most the number of rows.
      num_probes: Lists to probe, at least.

    Returns:
      Numbers of lists [Q, P] int64, -1 behind the last of a query.
    """
    sizes, num_probes = np.diff(starts), min(num_probes, gaps.shape[1])
    # A partition takes less time of a sort, and the order of probes is of no account.
    order = np.argpartition(gaps, num_probes - 1, axis=1)[:, :num_probes]
    farthest = np.take_along_axis(gaps, order[:, -1:], 1)
    is_clear = np.count_nonzero(gaps <= farthest, axis=1) == num_probes
    if (is_clear & (sizes[order].sum(1) >= top_k)).all():
        return order
    # Equally near lists are taken in order, and a few probes may hold fewer than k items: the next
    # nearest lists fill up.
    order = np.argsort(gaps, axis=1, kind="stable")
    enough = np.argmax(np.cumsum(sizes[order], axis=1) >= top_k, axis=1) + 1
    counts = np.maximum(enough, num_probes)
    order = order[:, : counts.max(initial=0)]
    return np.where(np.arange(order.shape[1]) < counts[:, None], order, -1)
