"""Is there a relevant item among the first K? The Recall@K of metric learning, exact in ties."""

import jax

from quantjax.metrics.checks import check_ties
from quantjax.metrics.draws import miss_exponent
from quantjax.metrics.entry import measure_counts, measure_distances
from quantjax.metrics.harmonic import Array
from quantjax.metrics.identifiers import check_cut
from quantjax.metrics.levels import Levels, levels_from_counts, ranks_inside


def hit_rate(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Measures whether at least one of the first K items is relevant.

    Metric learning calls its mean over queries Recall@K. With ties it is a chance: of the level
    that holds the nearest of the relevant items, n items with p relevant ones, r ranks are inside
    the cut, and 1 - C(n - p, r) / C(n, r) of all orders put one there.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: K; None, or more than N, takes all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      The chance of a hit for every query, [Q] float32: 0 or 1 where ties do not matter, 0 where
      nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      Jegou et al., Product Quantization for Nearest Neighbor Search, PAMI 2011 (recall@R, of the
      one nearest neighbour); Oh Song et al., Deep Metric Learning via Lifted Structured Feature
      Embedding, CVPR 2016.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_distances(_hit_rate, distances, relevant, top_k, ties)


def hit_rate_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Computes `hit_rate` from the number of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      The chance of a hit for every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_counts(_hit_rate, counts, top_k, ties)


def first_relevant_level(levels: Levels) -> Levels:
    """Picks the nearest level that holds a relevant item.

    Args:
      levels: The levels, [Q, levels].

    Returns:
      That level of every query, [Q]; all numbers are 0 where nothing is relevant.
    """
    xp = levels.items.__array_namespace__()
    is_first = (levels.relevant > 0) & (levels.relevant_before == 0)
    return Levels(*(xp.where(is_first, part, 0).sum(1) for part in levels))


def _hit_rate(counts, top_k, ties):
    first = first_relevant_level(levels_from_counts(counts))
    return _HITS[ties](first, ranks_inside(first.items, first.items_before, top_k))


def _expected_hit(first: Levels, inside: Array) -> Array:
    xp = inside.__array_namespace__()
    return -xp.expm1(-miss_exponent(first.items, first.relevant, inside))


def _possible_hit(first: Levels, inside: Array) -> Array:
    del first
    return 1.0 * (inside > 0)


def _certain_hit(first: Levels, inside: Array) -> Array:
    return 1.0 * (inside > first.items - first.relevant)


_HITS = {"expected": _expected_hit, "best": _possible_hit, "worst": _certain_hit}
