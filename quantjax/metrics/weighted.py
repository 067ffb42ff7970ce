"""Weighted average precision, for relevance in grades, exact in ties."""

import jax

from quantjax.metrics.checks import check_options
from quantjax.metrics.entry import measure_graded_counts, measure_grades
from quantjax.metrics.graded import GradedLevels, graded_block, graded_levels
from quantjax.metrics.harmonic import Array
from quantjax.metrics.levels import ranks_inside
from quantjax.metrics.weighted_cut import OVER_HITS, OpenLevel


def wap(
    distances: Array,
    grades: Array,
    *,
    num_grades: int,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
) -> jax.Array:
    """Measures weighted average precision: the mean grade down to each relevant rank.

    WAP@K = sum of ACG@i over the relevant ranks i up to K, divided by a named denominator. With
    grades 0 and 1 it is `average_precision`. Papers divide by the hits; the default is the
    denominator of `average_precision`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers; 0 is not relevant.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, ranks all items.
      denominator: "hits" (relevant items inside the cut), "capped" (min(K, relevant items)) or
        "all" (relevant items).
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Weighted average precision of every query, [Q] float32, in labels; 0 where nothing is
      relevant.

    Raises:
      ValueError: as `ndcg`.

    Reference:
      Zhao et al., Deep Semantic Ranking Based Hashing for Multi-Label Image Retrieval, CVPR 2015.
    """
    check_options(top_k, denominator, ties)
    return measure_grades(_wap, distances, grades, num_grades, top_k, denominator, ties)


def wap_from_counts(
    counts: Array,
    *,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
) -> Array:
    """Computes `wap` from the number of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level, integers [Q, levels, G].
      top_k: K, or None for all items. "hits" takes memory for about 10 G sqrt(K) values a query.
      denominator: "hits", "capped" or "all", as in `wap`.
      ties: "expected", "best" or "worst".

    Returns:
      Weighted average precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `ndcg_from_counts`.
    """
    check_options(top_k, denominator, ties)
    return measure_graded_counts(_wap, counts, top_k, denominator, ties)


def _wap(counts, top_k, denominator, ties):
    return _QUOTIENTS[denominator](counts, top_k, ties)


def _block_sum(counts, top_k, ties):
    levels = graded_levels(counts, ties)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    return graded_block(levels, inside).sum(1)


def _over_relevant(counts: Array, top_k: int | None, ties: str) -> Array:
    xp = counts.__array_namespace__()
    return _block_sum(counts, top_k, ties) / xp.maximum(counts[..., 1:].sum((1, 2)), 1)


def _over_capped(counts: Array, top_k: int | None, ties: str) -> Array:
    xp = counts.__array_namespace__()
    due = counts[..., 1:].sum((1, 2))
    due = due if top_k is None else xp.minimum(due, top_k)
    return _block_sum(counts, top_k, ties) / xp.maximum(due, 1)


def _over_hits(counts: Array, top_k: int | None, ties: str) -> Array:
    if top_k is None:
        return _over_relevant(counts, top_k, ties)
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, "expected")
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    whole = inside == levels.items
    nearer_counts = xp.where(whole[..., None], counts, 0)
    crossing = (inside > 0) & ~whole
    level = OpenLevel(
        nearer=_block_sum(nearer_counts, None, ties)[:, None],
        hits=nearer_counts[..., 1:].sum((1, 2))[:, None],
        whole=GradedLevels(*(xp.where(crossing, part, 0).sum(1)[:, None] for part in levels)),
        counts=xp.where(crossing[..., None], counts, 0).sum(1),
        inside=xp.where(crossing, inside, 0).sum(1),
    )
    return OVER_HITS[ties](level, top_k=top_k)


_QUOTIENTS = {"hits": _over_hits, "capped": _over_capped, "all": _over_relevant}
