"""Tie orders: what the items of one level contribute, and how an open number of hits is settled."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quantjax.metrics import cut
from quantjax.metrics.harmonic import Array, ramp_over_ranks
from quantjax.metrics.levels import Levels


class TieOrder(NamedTuple):
    """One way to settle ties.

    Attributes:
      hits: From levels and the ranks of each inside the cut, to the relevant items inside.
      block: From levels and the ranks of each inside the cut, to the sum of the precisions at its
        relevant ranks inside.
      over_hits: From average precision given the hits inside the cut, to one number (`cut.py`).
    """

    hits: Callable[[Levels, Array], Array]
    block: Callable[[Levels, Array], Array]
    over_hits: Callable[..., Array]


def expected_hits(levels: Levels, inside: Array) -> Array:
    """Averages the relevant items inside the cut over all orders: r p / n.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The means, one per level.
    """
    xp = levels.items.__array_namespace__()
    return inside * (levels.relevant / xp.maximum(levels.items, 1))


def most_hits(levels: Levels, inside: Array) -> Array:
    """Counts the relevant items inside the cut if they stand first: min(p, r).

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The numbers, one per level.
    """
    xp = levels.items.__array_namespace__()
    return xp.minimum(levels.relevant, inside)


def fewest_hits(levels: Levels, inside: Array) -> Array:
    """Counts the relevant items inside the cut if they stand last: max(r - (n - p), 0).

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The numbers, one per level.
    """
    xp = levels.items.__array_namespace__()
    return xp.maximum(inside - (levels.items - levels.relevant), 0)


def expected_block(levels: Levels, inside: Array) -> Array:
    """Averages a level's sum of precisions over all orders of its items.

    p/n sum_{t=1..r} (P0 + 1 + (t - 1) s) / (N0 + t), with s = (p - 1) / (n - 1): rank t is
    relevant with chance p/n, and each of the t - 1 ranks above it then with chance s.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The sums, one per level.

    Reference:
      McSherry & Najork, Computing Information Retrieval Performance Measures Efficiently in the
      Presence of Tied Scores, ECIR 2008; He et al., Hashing as Tie-Aware Learning to Rank, CVPR
      2018.
    """
    xp = levels.items.__array_namespace__()
    share = levels.relevant / xp.maximum(levels.items, 1)
    step = xp.maximum(levels.relevant - 1, 0) / xp.maximum(levels.items - 1, 1)
    first = levels.relevant_before + 1
    return share * ramp_over_ranks(levels.items_before, inside, first=first, step=step)


def best_block(levels: Levels, inside: Array) -> Array:
    """Sums a level's precisions with its relevant items first: sum (P0 + t) / (N0 + t).

    Args:
      levels: The levels, any shape.
      inside: Ranks of each level inside the cut.

    Returns:
      The sums, one per level; min(p, r) terms each.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    hits = most_hits(levels, inside)
    first = levels.relevant_before + 1
    return ramp_over_ranks(levels.items_before, hits, first=first, step=1.0)


def worst_block(levels: Levels, inside: Array) -> Array:
    """Sums a level's precisions with its relevant items last: sum (P0 + t) / (N0 + n - p + t).

    Args:
      levels: The levels, any shape.
      inside: Ranks of each level inside the cut.

    Returns:
      The sums, one per level; max(r - (n - p), 0) terms each.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    misses = levels.items - levels.relevant
    hits = fewest_hits(levels, inside)
    first = levels.relevant_before + 1
    return ramp_over_ranks(levels.items_before + misses, hits, first=first, step=1.0)


def _of_relevant(block):
    """Leaves out, on the host, what sums to nothing: most levels of a ranking, often."""

    def compressed(levels: Levels, inside: Array) -> Array:
        if not isinstance(inside, np.ndarray):
            return block(levels, inside)
        *parts, inside = np.broadcast_arrays(*levels, inside)
        some = np.flatnonzero((parts[1] > 0) & (inside > 0))
        sums = np.zeros(inside.size)
        sums[some] = block(Levels(*(part.ravel()[some] for part in parts)), inside.ravel()[some])
        return sums.reshape(inside.shape)

    return compressed


TIE_ORDERS = {
    "expected": TieOrder(expected_hits, _of_relevant(expected_block), cut.expectation),
    "best": TieOrder(most_hits, _of_relevant(best_block), cut.maximum),
    "worst": TieOrder(fewest_hits, _of_relevant(worst_block), cut.minimum),
}
