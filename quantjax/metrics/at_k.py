"""Precision and recall at a cut, exact in ties, from distances or from counts."""

import jax

from quantjax.metrics.checks import check_ties
from quantjax.metrics.entry import measure_counts, measure_distances
from quantjax.metrics.harmonic import Array
from quantjax.metrics.identifiers import check_cut
from quantjax.metrics.levels import levels_from_counts, ranks_inside
from quantjax.metrics.ties import TIE_ORDERS


def precision(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Measures which share of the first K items is relevant.

    P@K = (relevant items among the first K) / min(K, N). Dividing by min(K, N), as a mean over
    the items shown does, is what retrieval papers compute, whose K is far below N; TREC divides
    by K also where K > N.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: K; None, or more than N, takes all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Precision of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      McSherry & Najork, Computing Information Retrieval Performance Measures Efficiently in the
      Presence of Tied Scores, ECIR 2008.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_distances(_precision, distances, relevant, top_k, ties)


def precision_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Computes `precision` from the number of items at each distance.

    Args:
      counts: All items [..., 0] and relevant ones [..., 1] at every level of distance, nearest
        level first, integers [Q, levels, 2]; empty levels may stand anywhere.
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      Precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_counts(_precision, counts, top_k, ties)


def recall(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Measures which share of the relevant items is among the first K.

    R@K = (relevant items among the first K) / (relevant items). What metric learning calls
    Recall@K is `hit_rate`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: K; None, or more than N, takes all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Recall of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      As for `precision`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_distances(_recall, distances, relevant, top_k, ties)


def recall_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Computes `recall` from the number of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      Recall of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_counts(_recall, counts, top_k, ties)


def _precision(counts, top_k, ties):
    xp = counts.__array_namespace__()
    items = counts[..., 0].sum(1)
    shown = items if top_k is None else xp.minimum(items, top_k)
    return _hits(counts, top_k, ties) / xp.maximum(shown, 1)


def _recall(counts, top_k, ties):
    xp = counts.__array_namespace__()
    return _hits(counts, top_k, ties) / xp.maximum(counts[..., 1].sum(1), 1)


def _hits(counts, top_k, ties):
    levels = levels_from_counts(counts)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    return TIE_ORDERS[ties].hits(levels, inside).sum(1)
