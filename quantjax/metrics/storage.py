"""Rankings with ties in storage order, by one sort on the host: what most evaluators do unsaid."""

from typing import NamedTuple

import numpy as np

from quantjax.metrics.levels import dense_ranks


class Ranked(NamedTuple):
    """Items of every query nearest first, equal distances by position in the database.

    Rankings stand one behind the other: place q N + r holds the item of query q at rank r + 1.

    Attributes:
      hits: Places with a relevant item, ascending.
      ends: Places where a level of equal distance ends, ascending.
      shape: (Q, N).
    """

    hits: np.ndarray
    ends: np.ndarray
    shape: tuple[int, int]


def rank_as_stored(distances: np.ndarray, relevant: np.ndarray) -> Ranked:
    """Ranks by distance, then by position.

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
    np.greater_equal(keys[:, 1:] ^ keys[:, :-1], 1 << shift, out=ends[:, :-1])
    hits = (keys & 1).astype(bool)
    return Ranked(np.flatnonzero(hits), np.flatnonzero(ends), (num_queries, num_items))


def sum_precisions(ranked: Ranked, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums the precisions at the relevant ranks inside a cut.

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
    """Counts items and relevant items on every level: all that is left without an order of ties.

    Levels that no order of ties can tell apart are counted as one: those wholly behind the cut,
    and neighbours without relevant items, which are most when nearly every distance is different.

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
