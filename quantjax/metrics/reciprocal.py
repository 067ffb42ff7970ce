"""Reciprocal rank of the first relevant item, exact in ties, from distances or from counts."""

import jax
import numpy as np

from quantjax.metrics.checks import check_ties
from quantjax.metrics.draws import miss_exponent
from quantjax.metrics.entry import measure_counts, measure_distances
from quantjax.metrics.first import first_relevant_level
from quantjax.metrics.harmonic import Array
from quantjax.metrics.identifiers import check_cut
from quantjax.metrics.levels import Levels, levels_from_counts, ranks_inside

_HEAD, _TAIL = 32, 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)  # of -1..1
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
# Midpoint Euler-Maclaurin: a sum is the integral from half a step before to half a step after,
# less d1 / 24 - 17 d3 / 5760 + 367 d5 / 967680 at its ends, in central differences d of the terms.
_DIFFERENCES = np.array([[0, 0, -1, 1, 0, 0], [0, -1, 3, -3, 1, 0], [-1, 5, -10, 10, -5, 1]])
_AT_ENDS = np.array([-1 / 24, 17 / 5760, -367 / 967680]) @ _DIFFERENCES
_PLACES = np.arange(6) - 2.5


def reciprocal_rank(
    distances: Array, relevant: Array, *, top_k: int | None = None, ties: str = "expected"
) -> jax.Array:
    """Measures how early the first relevant item stands: one over its rank.

    Its mean over queries is MRR. In expectation, with the first relevant item on a level of n
    items, p of them relevant, after N0 nearer items:

        E[RR] = sum_t C(n - t, p - 1) / C(n, p) / (N0 + t).

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      top_k: The cut: a first relevant item beyond it counts as 0; None, or more than N, is no cut.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Reciprocal rank of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: as `average_precision`.

    Reference:
      McSherry & Najork, Computing Information Retrieval Performance Measures Efficiently in the
      Presence of Tied Scores, ECIR 2008.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_distances(_reciprocal_rank, distances, relevant, top_k, ties)


def reciprocal_rank_from_counts(
    counts: Array, *, top_k: int | None = None, ties: str = "expected"
) -> Array:
    """Computes `reciprocal_rank` from the number of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: The cut, or None.
      ties: "expected", "best" or "worst".

    Returns:
      Reciprocal rank of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_counts(_reciprocal_rank, counts, top_k, ties)


def _reciprocal_rank(counts, top_k, ties):
    xp = counts.__array_namespace__()
    first = first_relevant_level(levels_from_counts(counts))
    inside = ranks_inside(first.items, first.items_before, top_k)
    return xp.where(first.relevant > 0, _RECIPROCALS[ties](first, inside), 0.0)


def expected_reciprocal(first: Levels, inside: Array) -> Array:
    """Averages the reciprocal rank of a level's first relevant item over all orders.

    Up to 40 ranks are summed as they stand. Of more, the first 32 and the last 8 are, and those
    between by Gauss-Legendre quadrature in log t, with Euler-Maclaurin corrections at its ends:
    no loop over ranks, no binomial that could overflow, whatever the size of the level.

    Args:
      first: The nearest level with a relevant item, [Q].
      inside: Its ranks inside the cut, [Q].

    Returns:
      The means, [Q]: to 1e-12 of their value in float64 and 1e-6 in float32.
    """
    xp = inside.__array_namespace__()
    length = xp.minimum(inside, first.items - first.relevant + 1)[:, None]
    head, tail = xp.arange(1, _HEAD + 1), length - xp.arange(_TAIL)
    start, stop = _HEAD + 0.5, xp.maximum(length - (_TAIL - 0.5), _HEAD + 0.5)
    span = xp.log(stop / start)
    middle = xp.minimum(start * xp.exp(span * xp.asarray(_NODES, dtype=span.dtype)), stop)
    places = xp.asarray(_PLACES, dtype=span.dtype) + 0 * span
    ranks = (head + 0 * length, tail, middle, stop + places, start + places)
    at_ends = xp.asarray(_AT_ENDS, dtype=span.dtype) * (span > 0)
    weights = (
        1.0 * (head <= length),
        1.0 * (tail > _HEAD),
        span * middle * xp.asarray(_WEIGHTS, dtype=span.dtype),
        at_ends,
        -at_ends,
    )
    terms = _term(first, xp.concatenate(ranks, axis=1))
    return (xp.concatenate(weights, axis=1) * terms).sum(1)


def _term(first, ranks):
    # Rank t is the first relevant one with chance p/n C(n - t, p - 1) / C(n - 1, p - 1), the
    # latter quotient being the chance to miss p - 1 of n - 1 items in t - 1 draws.
    xp = first.items.__array_namespace__()
    items, relevant = xp.maximum(first.items, 1)[:, None], xp.maximum(first.relevant, 1)[:, None]
    misses = xp.exp(-miss_exponent(items - 1, relevant - 1, xp.maximum(ranks - 1, 0)))
    return relevant / items * misses / (first.items_before[:, None] + xp.maximum(ranks, 1))


def _first_of_its_level(first: Levels, inside: Array) -> Array:
    return (inside > 0) / (first.items_before + 1)


def _after_all_misses(first: Levels, inside: Array) -> Array:
    misses = first.items - first.relevant
    return (inside > misses) / (first.items_before + misses + 1)


_RECIPROCALS = {
    "expected": expected_reciprocal,
    "best": _first_of_its_level,
    "worst": _after_all_misses,
}
