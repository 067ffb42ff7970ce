"""Ranks items as evaluators do that know no ties: equal distances by position in the database."""

from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.metrics.levels import dense_ranks
from quantjax.metrics.rank_sums import Array
from quantjax.metrics.running import check_distances


class Ranked(NamedTuple):
    """Rankings of all queries, nearest item first, equal distances by position in the database.

    Rankings are concatenated: place q N + r holds the item of query q at rank r + 1.

    Attributes:
      hits: Places with a relevant item, ascending.
      ends: Places where a level of equal distance ends, ascending.
      shape: (Q, N).
    """

    hits: np.ndarray
    ends: np.ndarray
    shape: tuple[int, int]


def rank_as_stored(distances: np.ndarray, relevant: np.ndarray) -> Ranked:
    """Ranks the items of each query by distance, and equal distances by position in the database.

    Distance, position and relevance are packed into one integer, so that a plain sort is stable
    and carries everything along; with few distances (Hamming) the integer has only 32 bits.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers without NaN; float64 is not rounded.
      relevant: Whether the item is relevant to the query, [Q, N] bool.

    Returns:
      The rankings.
    """
    levels = _as_whole_numbers(distances)
    num_queries, num_items = levels.shape
    shift = (2 * num_items - 1).bit_length()
    narrow = (int(levels.max(initial=0)) + 1) << shift <= 2**31
    keys = levels.astype(np.int32 if narrow else np.int64)
    keys <<= shift
    keys |= np.arange(0, 2 * num_items, 2, dtype=keys.dtype)
    keys |= relevant
    keys.sort(axis=1)
    ends = np.ones(keys.shape, bool)
    # Neighbours differ at or above bit `shift` only if their distances differ.
    np.greater_equal(keys[:, 1:] ^ keys[:, :-1], 1 << shift, out=ends[:, :-1])
    hits = (keys & 1).astype(bool)
    return Ranked(np.flatnonzero(hits), np.flatnonzero(ends), (num_queries, num_items))


def sum_precisions(ranked: Ranked, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums, for each query, the precisions at the relevant ranks inside a cut.

    Args:
      ranked: The rankings.
      top_k: The cut.

    Returns:
      The sums [Q] float64, and the number of relevant ranks inside [Q].
    """
    num_queries, num_items = ranked.shape
    rows, ranks = np.divmod(ranked.hits, num_items)
    if top_k < num_items:
        inside = ranks < top_k
        rows, ranks = rows[inside], ranks[inside]
    found = np.bincount(rows, minlength=num_queries)
    hits_so_far = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(found) - found, found)
    return np.bincount(rows, weights=hits_so_far / (ranks + 1), minlength=num_queries), found


def count_levels(ranked: Ranked, top_k: int) -> np.ndarray:
    """Counts items and relevant items on every level of equal distance.

    Levels that no order of ties can distinguish are merged: all levels wholly beyond the cut, and
    neighbouring levels without relevant items, which are most levels if most distances differ.

    Args:
      ranked: The rankings.
      top_k: The cut.

    Returns:
      Counts [Q, levels, 2], nearest level first, zeros behind a query's last level.
    """
    num_queries, num_items = ranked.shape
    ends = ranked.ends
    is_last = ends % num_items == num_items - 1
    inside = np.concatenate([[0], ends[:-1] + 1]) % num_items < top_k
    some = np.diff(np.searchsorted(ranked.hits, ends, side="right"), prepend=0) > 0
    apart = some[:-1] | some[1:] | ~inside[1:]
    ends = ends[is_last | inside & np.append(apart, True)]
    items = np.diff(ends, prepend=-1)
    relevant = np.diff(np.searchsorted(ranked.hits, ends, side="right"), prepend=0)
    rows = ends // num_items
    num_levels = np.bincount(rows, minlength=num_queries)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(num_levels) - num_levels, num_levels)
    counts = np.zeros((num_queries, num_levels.max(), 2), np.int64)
    counts[rows, columns] = np.stack([items, relevant], axis=-1)
    return counts


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


def _as_whole_numbers(distances):
    # From 0 to less than 2^32, in the order of the distances and equal where they are equal.
    if np.issubdtype(distances.dtype, np.integer):
        low, high = int(distances.min(initial=0)), int(distances.max(initial=0))
        integer = np.int32 if high - low < 2**31 else np.int64
        return np.subtract(distances, low, dtype=integer, casting="same_kind")
    with np.errstate(over="ignore"):
        single = distances.astype(np.float32)
    if not np.array_equal(single, distances):
        return dense_ranks(distances)
    # The bits of a float grow with it, and fall with it below zero; + 0.0 makes -0.0 into 0.0.
    bits = (single + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) + 2**31
