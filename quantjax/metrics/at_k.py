"""Precision, recall, hit rate and reciprocal rank of the first K items, exact in ties."""

import jax
import numpy as np

from quantjax.metrics.levels import HITS, Levels, levels_from_counts, ranks_inside
from quantjax.metrics.rank_sums import Array, miss_exponent, sum_over_levels
from quantjax.metrics.running import measure_counts, measure_distances


def precision(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Returns precision at K: the share of relevant items among the first K.

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
    return measure_distances(_precision, distances, relevant, top_k, ties)


def precision_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Returns `precision`, computed from counts of items at each distance.

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
    return measure_counts(_precision, counts, top_k, ties)


def recall(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Returns recall at K: the share of the relevant items that are among the first K.

    R@K = (relevant items among the first K) / (relevant items). Metric learning's Recall@K is
    another metric, `hit_rate`.

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
    return measure_distances(_recall, distances, relevant, top_k, ties)


def recall_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Returns `recall`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      Recall of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
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
    return sum_over_levels(HITS[ties](levels, inside))


def r_precision(distances: Array, relevant: Array, *, ties: str = "expected") -> jax.Array:
    """Returns R-precision: precision of the first R items, R the query's number of relevant items.

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
    return measure_distances(_r_precision, distances, relevant, None, ties)


def r_precision_from_counts(counts: Array, *, ties: str = "expected") -> Array:
    """Returns `r_precision`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      ties: "expected", "best" or "worst".

    Returns:
      R-precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    return measure_counts(_r_precision, counts, None, ties)


def _r_precision(counts, top_k, ties):
    del top_k
    xp = counts.__array_namespace__()
    due = counts[..., 1].sum(1)
    # Each query has a cut of its own.
    return _hits(counts, due[:, None], ties) / xp.maximum(due, 1)


def hit_rate(
    distances: Array, relevant: Array, *, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Returns hit rate at K: 1 if at least one of the first K items is relevant, else 0.

    Metric learning calls its mean over queries Recall@K. With ties the value is a probability.
    Let the level of the nearest relevant item have n items, p of them relevant, and r ranks
    inside the cut: 1 - C(n - p, r) / C(n, r) of all orders place a relevant item inside.

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
    return measure_distances(_hit_rate, distances, relevant, top_k, ties)


def hit_rate_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Returns `hit_rate`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      The chance of a hit for every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    return measure_counts(_hit_rate, counts, top_k, ties)


def first_relevant_level(levels: Levels) -> Levels:
    """Returns each query's nearest level that holds a relevant item.

    Args:
      levels: The levels, [Q, levels].

    Returns:
      That level of every query, [Q]; all numbers are 0 where nothing is relevant.
    """
    xp = levels.items.__array_namespace__()
    # A sum over a mask with a single True, not a gather: works alike for NumPy and traced arrays.
    is_first = (levels.relevant > 0) & (levels.relevant_before == 0)
    return Levels(*(xp.where(is_first, part, 0).sum(1) for part in levels))


def _hit_rate(counts, top_k, ties):
    first = first_relevant_level(levels_from_counts(counts))
    inside = ranks_inside(first.items, first.items_before, top_k)
    if ties != "expected":
        return 1.0 * (HITS[ties](first, inside) > 0)
    xp = counts.__array_namespace__()
    return -xp.expm1(-miss_exponent(first.items, first.relevant, inside))


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
    """Returns reciprocal rank: 1 divided by the rank of the first relevant item.

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
    return measure_distances(_reciprocal_rank, distances, relevant, top_k, ties)


def reciprocal_rank_from_counts(
    counts: Array, *, top_k: int | None = None, ties: str = "expected"
) -> Array:
    """Returns `reciprocal_rank`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at every level, integers [Q, levels, 2].
      top_k: The cut, or None.
      ties: "expected", "best" or "worst".

    Returns:
      Reciprocal rank of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    return measure_counts(_reciprocal_rank, counts, top_k, ties)


def _reciprocal_rank(counts, top_k, ties):
    xp = counts.__array_namespace__()
    first = first_relevant_level(levels_from_counts(counts))
    inside = ranks_inside(first.items, first.items_before, top_k)
    if ties == "expected":
        value = expected_reciprocal(first, inside)
    else:
        misses = first.items - first.relevant if ties == "worst" else 0
        value = (inside > misses) / (first.items_before + misses + 1)
    return xp.where(first.relevant > 0, value, 0.0)


def expected_reciprocal(first: Levels, inside: Array) -> Array:
    """Averages the reciprocal rank of a level's first relevant item over all orders.

    Up to 40 ranks are summed term by term. Of more ranks, the first 32 and the last 8 are summed
    term by term, and the ranks between by Gauss-Legendre quadrature in log t, with Euler-Maclaurin
    corrections at its ends. No loop over ranks and no overflowing binomial is needed, for any size
    of the level.

    Args:
      first: The nearest level with a relevant item, [Q].
      inside: Its ranks inside the cut, [Q].

    Returns:
      The means, [Q]: to 1e-12 of their value in float64 and 1e-6 in float32.
    """
    xp = inside.__array_namespace__()
    # The first relevant item has rank n - p + 1 at the latest.
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
