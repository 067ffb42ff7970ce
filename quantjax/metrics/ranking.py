"""Average precision, exact in ties, from distances or counts.

A level is all items at one distance of a query. Its block is the sum of the precisions at its
relevant ranks inside the cut, for one order of ties. Average precision is the sum of the blocks,
divided by a named denominator.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError
from quantjax.metrics.levels import HITS, OVER_HITS, Levels, levels_from_counts, ranks_inside
from quantjax.metrics.rank_sums import Array, ramp_over_ranks, sum_over_levels
from quantjax.metrics.running import (
    DENOMINATORS,
    as_array,
    check_choice,
    measure_counts,
    measure_distances,
)


class Bounds(NamedTuple):
    """Values of a metric under three tie orders, worst <= expected <= best, [Q] each.

    Attributes:
      worst: With the order of ties that is worst for the query.
      expected: On average over all orders of ties.
      best: With the order of ties that is best for the query.
    """

    worst: Array
    expected: Array
    best: Array


def average_precision(
    distances: Array,
    relevant: Array,
    *,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
) -> jax.Array:
    """Returns the average precision of each query's ranking.

    AP = sum of the precisions at the relevant ranks up to K, divided by a named denominator.
    Items at equal distances are tied. The order of storage does not matter: `ties` selects the mean
    over all orders of tied items ("expected"), or the best or the worst order. It is jittable with
    the options static, but not differentiable.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers, integer or float; infinities are allowed.
        NumPy's float64 is compared without rounding, in this and every other metric; inside jit
        JAX has rounded it to float32 unless x64 is enabled.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: K, the cut; None, or more than N, ranks all items.
      denominator: "hits" (relevant items inside the cut), "capped" (min(K, relevant items)) or
        "all" (relevant items).
      ties: "expected", "best" or "worst".

    Returns:
      Average precision of every query, [Q] float32 in 0..1; 0 where the denominator is 0.

    Raises:
      ValueError: if shapes or types do not agree, an option is unknown, or a distance is NaN
        (inside jit values cannot be seen, and NaN ranks last, equal to nothing).

    Reference:
      McSherry & Najork, Computing Information Retrieval Performance Measures Efficiently in the
      Presence of Tied Scores, ECIR 2008; He et al., Hashing as Tie-Aware Learning to Rank, CVPR
      2018. The "hits" denominator with a cut is derived at `levels.expectation_over_hits`.
    """
    check_choice("denominator", denominator, DENOMINATORS)
    return measure_distances(_average_precision, distances, relevant, top_k, ties, denominator)


def average_precision_from_counts(
    counts: Array, *, top_k: int | None = None, denominator: str = "capped", ties: str = "expected"
) -> Array:
    """Returns `average_precision`, computed from counts of items at each distance.

    Counts of parts of a database can be added, so use this for a database in tiles or shards.

    Args:
      counts: All items [..., 0] and relevant ones [..., 1] at every level of distance, nearest
        level first, integers [Q, levels, 2]; empty levels may stand anywhere. A query's items
        must stay below 2^31.
      top_k: K, the cut; None, or more than there are items, ranks all items. The denominator
        "hits" takes memory for about 10 sqrt(K) values a query.
      denominator: "hits", "capped" or "all", as in `average_precision`.
      ties: "expected", "best" or "worst".

    Returns:
      Average precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: if `counts` is not integer [Q, levels, 2], holds a negative number or more
        relevant items than items, or an option is unknown.

    Reference:
      As for `average_precision`.
    """
    check_choice("denominator", denominator, DENOMINATORS)
    return measure_counts(_average_precision, counts, top_k, ties, denominator)


def average_precision_bounds(
    counts: Array, *, top_k: int | None = None, denominator: str = "capped"
) -> Bounds:
    """Returns average precision under the worst, the average and the best order of ties.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: The cut, or None for all items.
      denominator: "hits", "capped" or "all", as in `average_precision`.

    Returns:
      The three values of every query, kept in order where rounding would exchange them.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    worst, expected, best = (
        average_precision_from_counts(counts, top_k=top_k, denominator=denominator, ties=ties)
        for ties in ("worst", "expected", "best")
    )
    xp = expected.__array_namespace__()
    # Without ties the three are one number, computed in three ways that differ in the last digit.
    return Bounds(xp.minimum(worst, expected), expected, xp.maximum(best, expected))


def average_precision_at_r(
    distances: Array, relevant: Array, *, ties: str = "expected"
) -> jax.Array:
    """Returns MAP@R: average precision within the first R items, R the number of relevant items.

    MAP@R = 1/R sum_{i=1..R} P(i) rel(i): average precision cut at each query's own R. It is never
    more than R-precision.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool. Leave the query itself out
        of the database: it would count in R.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Average precision at R of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      Musgrave et al., A Metric Learning Reality Check, ECCV 2020.
    """
    return measure_distances(_average_precision_at_r, distances, relevant, None, ties)


def average_precision_at_r_from_counts(counts: Array, *, ties: str = "expected") -> Array:
    """Returns `average_precision_at_r`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      ties: "expected", "best" or "worst".

    Returns:
      Average precision at R of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    return measure_counts(_average_precision_at_r, counts, None, ties)


def chance(
    num_relevant: Array, num_items: int, *, top_k: int | None = None, denominator: str = "capped"
) -> Array:
    """Returns the chance level: the expected average precision of a random ranking.

    Any useful ranking must beat it. It is the value for all items at the same distance, on average
    over all orders.

    Args:
      num_relevant: Relevant items of every query, integers [Q].
      num_items: Items in the database.
      top_k: The cut, or None for all items.
      denominator: "hits", "capped" or "all", as in `average_precision`.

    Returns:
      The chance level of every query, [Q]: NumPy numbers give float64, JAX numbers float32.

    Raises:
      ValueError: if `num_relevant` is not integers [Q] from 0 to `num_items`, `num_items` is not an
        integer from 1 to 2^31 - 1, `top_k` is below 1, or the denominator is unknown.
    """
    num_relevant = _check_chance(num_relevant, num_items)
    xp = num_relevant.__array_namespace__()
    # One level of all items: the mean over its orders is the mean over all rankings.
    items = xp.full(num_relevant.shape, num_items)
    counts = xp.stack([items, num_relevant], axis=-1)[:, None]
    return average_precision_from_counts(counts, top_k=top_k, denominator=denominator)


def expected_block(levels: Levels, inside: Array) -> Array:
    """Averages each level's sum of precisions over all orders of its items.

    p/n sum_{t=1..r} (P0 + 1 + (t - 1) s) / (N0 + t), with s = (p - 1) / (n - 1): rank t of the
    level is relevant with chance p/n, and then each of the level's t - 1 nearer ranks with chance
    s. `Levels` explains n, p, N0 and P0.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The sums, one for each level.

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


def extreme_block(levels: Levels, inside: Array, ties: str) -> Array:
    """Sums each level's precisions with its relevant items first or last: sum (P0 + t) / (a + t).

    With relevant items first a = N0 and t goes to min(p, r); with relevant items last
    a = N0 + n - p and t goes to max(r - (n - p), 0).

    Args:
      levels: The levels, any shape.
      inside: Ranks of each level inside the cut.
      ties: "best" or "worst".

    Returns:
      The sums, one for each level.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    misses = levels.items - levels.relevant if ties == "worst" else 0
    hits, first = HITS[ties](levels, inside), levels.relevant_before + 1
    return ramp_over_ranks(levels.items_before + misses, hits, first=first, step=1.0)


def _blocks(levels, inside, ties):
    """Computes the block of each level; on the host only those that are not 0, often few."""
    # A compiled program has fixed shapes and computes every level.
    if not isinstance(inside, np.ndarray):
        return _block(levels, inside, ties)
    *parts, inside = np.broadcast_arrays(*levels, inside)
    # A level without relevant items (parts[1]) or without ranks inside the cut adds nothing.
    some = np.flatnonzero((parts[1] > 0) & (inside > 0))
    sums = np.zeros(inside.size)
    sums[some] = _block(Levels(*(part.ravel()[some] for part in parts)), inside.ravel()[some], ties)
    return sums.reshape(inside.shape)


def _block(levels, inside, ties):
    if ties == "expected":
        return expected_block(levels, inside)
    return extreme_block(levels, inside, ties)


def _average_precision(counts, top_k, ties, denominator):
    levels = levels_from_counts(counts)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    # Without a cut all relevant items are hits. With a cut, ties on it leave the number open.
    if denominator == "hits" and top_k is not None:
        return _divide_by_hits(levels, inside, ties, top_k)
    xp = inside.__array_namespace__()
    due = levels.relevant.sum(1)
    if denominator == "capped" and top_k is not None:
        due = xp.minimum(due, top_k)
    return _divide(levels, inside, ties, due)


def _divide(levels, inside, ties, denominator):
    xp = inside.__array_namespace__()
    return sum_over_levels(_blocks(levels, inside, ties)) / xp.maximum(denominator, 1)


def _divide_by_hits(levels, inside, ties, top_k):
    xp = inside.__array_namespace__()
    whole = inside == levels.items
    nearer = sum_over_levels(xp.where(whole, _blocks(levels, inside, ties), 0))
    nearer_hits = xp.where(whole, levels.relevant, 0).sum(1)
    # At most one level crosses the cut: some of its items are inside and some outside. Without
    # such a level these four numbers are 0, and 0 is the only possible number of further hits.
    crossing = (inside > 0) & ~whole
    items, relevant, ranks, before = (
        xp.where(crossing, part, 0).sum(1)
        for part in (levels.items, levels.relevant, inside, levels.items_before)
    )

    def value(hits: Array) -> Array:
        # Given the hits, the part of the level inside the cut counts like a whole level.
        column = ranks[:, None]
        inner = Levels(column, hits, before[:, None], nearer_hits[:, None])
        total = nearer[:, None] + _blocks(inner, column, ties)
        return total / xp.maximum(nearer_hits[:, None] + hits, 1)

    return OVER_HITS[ties](value, items, relevant, ranks, top_k=top_k)


def _average_precision_at_r(counts, top_k, ties):
    del top_k
    levels = levels_from_counts(counts)
    num_relevant = levels.relevant.sum(1)
    inside = ranks_inside(levels.items, levels.items_before, num_relevant[:, None])
    return _divide(levels, inside, ties, num_relevant)


def _check_chance(num_relevant, num_items):
    num_relevant = as_array(num_relevant)
    if num_relevant.ndim != 1 or not jnp.issubdtype(num_relevant.dtype, np.integer):
        raise InputError(
            f"num_relevant must be integers [Q], got {num_relevant.dtype} {num_relevant.shape}"
        )
    if not isinstance(num_items, (int, np.integer)) or not 1 <= num_items < 2**31:
        raise InputError(f"num_items must be an integer from 1 to 2^31 - 1, got {num_items!r}")
    if not isinstance(num_relevant, Tracer):
        values = np.asarray(num_relevant)
        if values.size and not 0 <= values.min() <= values.max() <= num_items:
            raise InputError(
                f"num_relevant must be from 0 to num_items = {num_items}, "
                f"got {values.min()} to {values.max()}"
            )
    return num_relevant
