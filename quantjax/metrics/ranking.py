"""Average precision, exact in ties, from distances or counts; and re-ranking of Hamming ties."""

from typing import NamedTuple

import jax
import numpy as np

from quantjax.errors import InputError
from quantjax.metrics.checks import check_chance, check_distances, check_options
from quantjax.metrics.levels import (
    TIE_ORDERS,
    Levels,
    TieOrder,
    levels_from_counts,
    measure_counts,
    measure_distances,
    ranks_inside,
)
from quantjax.metrics.rank_sums import Array, sum_over_levels


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
    Equal distances are ties: no order of storage enters, but the mean over all orders of ties
    ("expected") or the extremes. It is jittable with the options static, but not differentiable.

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
    check_options(top_k, denominator, ties)
    return measure_distances(_average_precision, distances, relevant, top_k, denominator, ties)


def average_precision_from_counts(
    counts: Array,
    *,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
) -> Array:
    """Returns `average_precision`, computed from counts of items at each distance.

    Counts add over parts of a database, so this is the form for a database in tiles or shards.

    Args:
      counts: All items [..., 0] and relevant ones [..., 1] at every level of distance, nearest
        level first, integers [Q, levels, 2]; empty levels may stand anywhere. A query's items
        must stay below 2^31.
      top_k: The cut; None, or more than there are items, ranks all items. "hits" takes memory for
        about 10 sqrt(K) values a query.
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
    check_options(top_k, denominator, ties)
    return measure_counts(_average_precision, counts, top_k, denominator, ties)


def average_precision_bounds(
    counts: Array, *, top_k: int | None = None, denominator: str = "capped"
) -> Bounds:
    """Returns average precision under the worst, the average and the best order of ties.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: The cut, or None for all items.
      denominator: "hits", "capped" or "all", as in `average_precision`.

    Returns:
      The three values of every query; rounding is clipped, so that they are in order.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    worst, expected, best = (
        average_precision_from_counts(counts, top_k=top_k, denominator=denominator, ties=ties)
        for ties in ("worst", "expected", "best")
    )
    xp = expected.__array_namespace__()
    return Bounds(xp.minimum(worst, expected), expected, xp.maximum(best, expected))


def chance(
    num_relevant: Array,
    num_items: int,
    *,
    top_k: int | None = None,
    denominator: str = "capped",
) -> Array:
    """Returns the chance level: the expected average precision of a random ranking.

    Any useful ranking must beat it. It is computed with all items at the same distance.

    Args:
      num_relevant: Relevant items of every query, integers [Q].
      num_items: Items in the database.
      top_k: The cut, or None for all items.
      denominator: "hits", "capped" or "all", as in `average_precision`.

    Returns:
      The chance level of every query, [Q]: NumPy numbers give float64, JAX numbers float32.

    Raises:
      ValueError: if a number cannot be, or an option is unknown.
    """
    num_relevant = check_chance(num_relevant, num_items)
    xp = num_relevant.__array_namespace__()
    items = xp.full(num_relevant.shape, num_items)
    counts = xp.stack([items, num_relevant], axis=-1)[:, None]
    return average_precision_from_counts(counts, top_k=top_k, denominator=denominator)


def _average_precision(counts, top_k, denominator, ties):
    levels = levels_from_counts(counts)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    return _QUOTIENTS[denominator](levels, inside, TIE_ORDERS[ties], top_k)


def _over_relevant(levels: Levels, inside: Array, order: TieOrder, top_k: int | None) -> Array:
    del top_k
    xp = inside.__array_namespace__()
    return sum_over_levels(order.block(levels, inside)) / xp.maximum(levels.relevant.sum(1), 1)


def _over_capped(levels: Levels, inside: Array, order: TieOrder, top_k: int | None) -> Array:
    xp = inside.__array_namespace__()
    due = levels.relevant.sum(1)
    due = due if top_k is None else xp.minimum(due, top_k)
    return sum_over_levels(order.block(levels, inside)) / xp.maximum(due, 1)


def _over_hits(levels: Levels, inside: Array, order: TieOrder, top_k: int | None) -> Array:
    if top_k is None:
        return _over_relevant(levels, inside, order, top_k)
    xp = inside.__array_namespace__()
    whole = inside == levels.items
    nearer = sum_over_levels(xp.where(whole, order.block(levels, inside), 0))
    nearer_hits = xp.where(whole, levels.relevant, 0).sum(1)
    # At most one level has some items inside the cut and some outside; if none has, all its
    # numbers are 0 and the only possible number of further hits is 0.
    crossing = (inside > 0) & ~whole
    items, relevant, ranks, before = (
        xp.where(crossing, part, 0).sum(1)
        for part in (levels.items, levels.relevant, inside, levels.items_before)
    )

    def value(hits: Array) -> Array:
        column = ranks[:, None]
        inner = Levels(column, hits, before[:, None], nearer_hits[:, None])
        total = nearer[:, None] + order.block(inner, column)
        return total / xp.maximum(nearer_hits[:, None] + hits, 1)

    return order.over_hits(value, items, relevant, ranks, top_k=top_k)


_QUOTIENTS = {"hits": _over_hits, "capped": _over_capped, "all": _over_relevant}


def rerank(hamming: Array, distances: Array, *, bits: int) -> np.ndarray:
    """Returns distances that rank by Hamming distance, and equal Hamming distances by a second one.

    thulab/DeepHash's re-ranking goes through the Hamming distances 0 to bits - 1 and never reaches
    an item that differs in every bit. Such an item gets distance infinity here.

    Args:
      hamming: Hamming distances [Q, N].
      distances: Second distance, which orders equal Hamming distances, [Q, N]; in the original the
        negative inner product of the real embeddings.
      bits: Code length.

    Returns:
      A distance for `mean_average_precision_as`, [Q, N] float64: 0, 1, ... along each ranking,
      equal only where both distances are, infinity for what is never reached.

    Raises:
      ValueError: if the shapes do not agree, a number is NaN, or `bits` is less than 1.
    """
    if bits < 1:
        raise InputError(f"bits must be at least 1, got {bits}")
    if np.shape(hamming) != np.shape(distances):
        raise InputError(
            f"distances must have the shape of hamming, {np.shape(hamming)}, "
            f"got {np.shape(distances)}"
        )
    anything = np.zeros(np.shape(hamming), bool)
    hamming, distances = (
        np.asarray(check_distances(both, anything)[0]) for both in (hamming, distances)
    )
    # lexsort takes its last key first: Hamming distance, then the second distance.
    order = np.lexsort((distances, hamming), axis=-1)
    steps = np.zeros(order.shape, bool)
    for each in (hamming, distances):
        along = np.take_along_axis(each, order, axis=1)
        steps[:, 1:] |= along[:, 1:] != along[:, :-1]
    ranks = np.zeros(order.shape)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=1), axis=1)
    reached = (hamming >= 0) & (hamming < bits) & (hamming == np.floor(hamming))
    return np.where(reached, ranks, np.inf)
