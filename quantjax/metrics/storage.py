"""Rankings with ties in storage order, by one sort on the host: what most evaluators do unsaid."""

from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """Items of every query nearest first, equal distances by position in the database.

    Attributes:
      hits: Whether the item at each rank is relevant, [Q, N] bool.
      ends: Whether its level of equal distance ends at this rank, [Q, N] bool.
    """

    hits: np.ndarray
    ends: np.ndarray


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
    num_items = levels.shape[1]
    shift = (2 * num_items - 1).bit_length()
    narrow = (int(levels.max(initial=0)) + 1) << shift <= 2**31
    keys = levels.astype(np.int32 if narrow else np.int64)
    keys <<= shift
    keys |= np.arange(0, 2 * num_items, 2, dtype=keys.dtype)
    keys |= relevant
    keys.sort(axis=1)
    ends = np.ones(keys.shape, bool)
    np.not_equal(keys[:, 1:] >> shift, keys[:, :-1] >> shift, out=ends[:, :-1])
    return Ranked((keys & 1).astype(bool), ends)


def precision_sums(hits: np.ndarray) -> np.ndarray:
    """Sums the precisions at the relevant ranks.

    Args:
      hits: Whether each rank is relevant, [Q, K] bool.

    Returns:
      The sums, [Q] float64.
    """
    found = np.count_nonzero(hits, axis=1)
    rows = np.repeat(np.arange(len(hits)), found)
    ranks = np.flatnonzero(hits) - rows * hits.shape[1] + 1
    hits_so_far = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(found) - found, found)
    return np.bincount(rows, weights=hits_so_far / ranks, minlength=len(hits))


def count_levels(ranked: Ranked) -> np.ndarray:
    """Counts items and relevant items on every level: all that is left without an order of ties.

    Args:
      ranked: The rankings.

    Returns:
      Counts [Q, levels, 2], nearest level first, zeros behind a query's last level.
    """
    num_levels = np.count_nonzero(ranked.ends, axis=1)
    last = np.flatnonzero(ranked.ends)
    items = np.diff(last, prepend=-1)
    relevant = np.add.reduceat(ranked.hits.ravel(), last - items + 1, dtype=np.int64)
    rows = np.repeat(np.arange(len(num_levels)), num_levels)
    columns = np.arange(len(last)) - np.repeat(np.cumsum(num_levels) - num_levels, num_levels)
    counts = np.zeros((len(num_levels), num_levels.max(), 2), np.int64)
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
        return _dense_ranks(distances.astype(np.float64))
    # The bits of a float grow with it, and fall with it below zero; + 0.0 makes -0.0 into 0.0.
    bits = (single + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) + 2**31


def _dense_ranks(distances):
    order = np.argsort(distances, axis=1)
    nearest_first = np.take_along_axis(distances, order, axis=1)
    ranks = np.zeros(distances.shape, np.int64)
    steps = np.cumsum(nearest_first[:, 1:] != nearest_first[:, :-1], axis=1)
    np.put_along_axis(ranks, order[:, 1:], steps, axis=1)
    return ranks
