"""Metrics whose cut is R, the number of relevant items of each query, exact in ties."""

import jax

from quantjax.metrics.checks import check_ties
from quantjax.metrics.entry import measure_counts, measure_distances
from quantjax.metrics.harmonic import Array
from quantjax.metrics.levels import levels_from_counts, ranks_inside
from quantjax.metrics.ties import TIE_ORDERS


def r_precision(distances: Array, relevant: Array, *, ties: str = "expected") -> jax.Array:
    """Measures which share of the first R items is relevant, R being how many could be.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool. Leave the query itself out
        of the database: it would count in R.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      R-precision of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      Musgrave et al., A Metric Learning Reality Check, ECCV 2020.
    """
    check_ties(ties)
    return measure_distances(_r_precision, distances, relevant, None, ties)


def r_precision_from_counts(counts: Array, *, ties: str = "expected") -> Array:
    """Computes `r_precision` from the number of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      ties: "expected", "best" or "worst".

    Returns:
      R-precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_ties(ties)
    return measure_counts(_r_precision, counts, None, ties)


def average_precision_at_r(
    distances: Array, relevant: Array, *, ties: str = "expected"
) -> jax.Array:
    """Measures average precision within the first R items, R being the number of relevant ones.

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
    check_ties(ties)
    return measure_distances(_average_precision_at_r, distances, relevant, None, ties)


def average_precision_at_r_from_counts(counts: Array, *, ties: str = "expected") -> Array:
    """Computes `average_precision_at_r` from the number of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      ties: "expected", "best" or "worst".

    Returns:
      Average precision at R of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_ties(ties)
    return measure_counts(_average_precision_at_r, counts, None, ties)


def _r_precision(counts, top_k, ties):
    del top_k
    return _mean_over_r(counts, TIE_ORDERS[ties].hits)


def _average_precision_at_r(counts, top_k, ties):
    del top_k
    return _mean_over_r(counts, TIE_ORDERS[ties].block)


def _mean_over_r(counts, contribution):
    xp = counts.__array_namespace__()
    levels = levels_from_counts(counts)
    due = levels.relevant.sum(1)
    inside = ranks_inside(levels.items, levels.items_before, due[:, None])
    return contribution(levels, inside).sum(1) / xp.maximum(due, 1)
