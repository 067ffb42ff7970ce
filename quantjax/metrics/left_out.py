"""The mean over queries when those that hit nothing inside the cut are left out.

If the cut goes through a level of ties, whether a query hits anything depends on their order, and
with it the number of queries that the mean is taken over.
"""

import numpy as np

from quantjax.metrics.levels import levels_from_counts
from quantjax.metrics.ranking import Bounds


def chance_of_a_hit(counts: np.ndarray, top_k: int) -> np.ndarray:
    """Computes how likely a query has a relevant item inside the cut, over all orders of ties.

    1 where a level that fits whole holds one. Else the level that crosses the cut has n items, p
    of them relevant, and r ranks inside: 1 - prod_{t<p} (1 - r / (n - t)).

    Args:
      counts: Items and relevant items at every level, [Q, levels, 2].
      top_k: The cut.

    Returns:
      The chances, [Q]; exactly 0 where no order hits anything.
    """
    levels = levels_from_counts(counts)
    inside = np.clip(top_k - levels.items_before, 0, levels.items)
    some = (inside > 0) & (levels.relevant > 0)
    first = np.argmax(some, axis=1)
    chances = np.where(some.any(axis=1), 1.0, 0.0)
    for row in np.flatnonzero(chances):
        items, relevant = counts[row, first[row]]
        misses = 1 - inside[row, first[row]] / (items - np.arange(relevant))
        chances[row] = 1 - np.prod(misses)
    return chances


def bounds_of_mean(bounds: Bounds, chances: np.ndarray, least: np.ndarray) -> Bounds:
    """Bounds the mean over the queries that are not left out.

    Orders of ties that leave out every query have no mean and do not count.

    Args:
      bounds: Average precision of every query, [Q] each, 0 where it hits nothing.
      chances: How likely each is not left out, [Q]; ties of different queries are independent.
      least: The least average precision of a query that hits something, [Q]; looked at where the
        chance is neither 0 nor 1.

    Returns:
      The least, the expected and the largest mean; NaN if every query is always left out.
    """
    sure, doubtful = chances == 1, (chances > 0) & (chances < 1)
    return Bounds(
        -_largest_mean(-bounds.worst[sure], -least[doubtful]),
        _expected_mean(bounds.expected[sure], bounds.expected[doubtful], chances[doubtful]),
        _largest_mean(bounds.best[sure], bounds.best[doubtful]),
    )


def _largest_mean(fixed, optional):
    largest_first = -np.sort(-optional)
    sums = fixed.sum() + np.concatenate([[0.0], np.cumsum(largest_first)])
    sizes = len(fixed) + np.arange(len(sums))
    return (sums[sizes > 0] / sizes[sizes > 0]).max() if sizes[-1] else np.nan


def _expected_mean(fixed, optional, chances):
    # One query after another: the chance that k optional ones are kept, and their sum in that case
    # weighted by it.
    weights, sums = np.zeros(len(optional) + 1), np.zeros(len(optional) + 1)
    weights[0] = 1
    for value, chance in zip(optional, chances, strict=True):
        kept = chance * sums[:-1] + value * weights[:-1]
        sums *= 1 - chance
        sums[1:] += kept
        kept = chance * weights[:-1]
        weights *= 1 - chance
        weights[1:] += kept
    sizes = len(fixed) + np.arange(len(sums))
    some = sizes > 0
    if not some.any():
        return np.nan
    return ((fixed.sum() * weights + sums)[some] / sizes[some]).sum() / weights[some].sum()
