"""Finds the nearest rows of a scan: those within its bounds, by their exact distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index.scan import FAN, GROUP, Scan, sums_of

_PAIRS = 1 << 16  # groups whose rows are computed at once
_SPARE = 4  # groups for each of the k nearest, at least, or the bound is loose


def nearest(scan: Scan, top_k: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the distances of the rows that may be nearest, and orders them.

    Args:
      scan: The first pass over a shard.
      top_k: k; fewer are found where the shard has fewer rows.
      least: Distances below it are raised to it.

    Returns:
      Distances [Q, k] float32 and row numbers of the whole database [Q, k] int64; equal distances
      are ordered by row.
    """
    block, shard, levels = scan
    top_k = min(top_k, shard.count)
    if not levels:
        return _nearest_of_every(block, shard, top_k, least)
    groups, queries, limits = _groups_within(scan, top_k)
    most = block.base[: block.count] + np.float64(block.step[: block.count]) * limits
    most = np.maximum(most, least)
    parts = []
    for start in range(0, len(groups), _PAIRS):
        part = slice(start, start + _PAIRS)
        found = _distances(block, shard, groups[part], queries[part], least, most)
        # Trimmed at once: all rows of a database may have the same code.
        parts.append(nearest_of_each(*found, top_k))
    query, distances, rows = map(np.concatenate, zip(*parts, strict=True))
    if len(parts) > 1:
        query, distances, rows = nearest_of_each(query, distances, rows, top_k)
    shape = block.count, top_k
    return distances.reshape(shape), shard.first + rows.reshape(shape)


def _nearest_of_every(block, shard, top_k, least):
    """Returns distances and rows [Q, k], by the distances of all rows."""
    # All start before the first one is waited for.
    tables = _by_query(block.tables)[: block.count]
    every = [_every_sum(table, shard.numbers) for table in tables]
    distances, rows = (
        np.empty((block.count, top_k), np.float32),
        np.empty((block.count, top_k), int),
    )
    for query, sums in enumerate(every):
        sums = np.asarray(sums)[: shard.count]
        found = _as_distances(sums, block, shard, slice(0, shard.count), least)
        rows[query] = first(found, top_k)
        distances[query] = found[rows[query]]
    return distances, shard.first + rows


@jax.jit
def _by_query(tables):
    # Arrays [M, K]: small tables that stay in the nearest cache, and are not cut out in each loop.
    return [*jnp.moveaxis(tables, -1, 0)]


@jax.jit
def _every_sum(table, numbers):
    return sums_of(table, numbers)


def first(distances: np.ndarray, top_k: int) -> np.ndarray:
    """Returns the places of the k least of distances [N], nearest first, equal ones in order."""
    candidates = np.flatnonzero(distances <= _bound(distances, top_k))
    return candidates[np.argsort(distances[candidates], kind="stable")[:top_k]]


def _bound(distances, top_k):
    """Returns a distance that is not below the k-th least, and hardly above it."""
    width = len(distances) // FAN
    if width < _SPARE * top_k:
        return np.partition(distances, top_k - 1)[top_k - 1]
    # k groups hold k distances up to their own least. Rows of a group lie far from each other, so
    # that their least is one operation on whole vectors.
    return _bound(distances[: FAN * width].reshape(FAN, width).min(0), top_k)


def _groups_within(scan, top_k):
    """Returns groups of 4 rows that may hold near rows, their queries, and the queries' limits.

    The k-th least sum of the largest groups bounds the k-th least of all rows. Pairs are ordered by
    query, then by group.
    """
    block, shard, levels = scan
    levels = [np.asarray(level) for level in levels]
    counts = [-(-shard.count // GROUP)]
    for _ in levels[1:]:
        counts.append(-(-counts[-1] // FAN))
    top = np.ascontiguousarray(levels[-1][: counts[-1], : block.count].T)
    # k groups hold k rows at least as near as their own least sums.
    # As float32, which holds small whole numbers exactly, and which NumPy partitions fastest.
    kth = np.partition(top.astype(np.float32, copy=False), top_k - 1, axis=1)[:, top_k - 1]
    limits = kth + block.slack[: block.count]
    queries, groups = np.nonzero(top <= limits[:, None])
    sums = top[queries, groups]
    for level, count in zip(levels[-2::-1], counts[-2::-1], strict=True):
        groups, queries = _early_ties(groups, queries, sums == limits[queries], block, top_k)
        groups = (groups[:, None] * FAN + np.arange(FAN)).ravel()
        queries = np.repeat(queries, FAN)
        groups, queries = groups[groups < count], queries[groups < count]
        sums = level[groups, queries]
        near = sums <= limits[queries]
        groups, queries, sums = groups[near], queries[near], sums[near]
    groups, queries = _early_ties(groups, queries, sums == limits[queries], block, top_k)
    return groups, queries, limits


def _early_ties(groups, queries, tied, block, top_k):
    """Drops groups behind the first k that hold nothing nearer than the k-th distance.

    Codes of few bits put thousands of rows at one distance, of which the first rows are nearest.
    Sums that are not distances do not tell equal distances.
    """
    if not block.is_exact:
        return groups, queries
    ties = np.cumsum(tied)
    before = np.append(0, ties)[np.searchsorted(queries, queries)]
    kept = ~tied | (ties - before <= top_k)
    return groups[kept], queries[kept]


def _distances(block, shard, groups, queries, least, most):
    """Returns query, distance and row of the rows of groups [P] that are near enough."""
    # Sizes of few kinds, because each is compiled.
    padding = (1 << max(8, (len(groups) - 1).bit_length())) - len(groups)
    padded = (np.pad(each.astype(np.int32), (0, padding)) for each in (groups, queries))
    sums = _sums_of_groups(block.tables, shard.numbers, *padded)
    sums = np.asarray(sums)[: len(groups)].ravel()
    rows = (groups[:, None] * GROUP + np.arange(GROUP)).ravel()
    queries = np.repeat(queries, GROUP)
    real = rows < shard.count
    sums, rows, queries = sums[real], rows[real], queries[real]
    distances = _as_distances(sums, block, shard, rows, least)
    near = distances <= most[queries]
    return queries[near], distances[near], rows[near]


@jax.jit
def _sums_of_groups(tables, numbers, groups, queries):
    """Returns the sums [P, 4] of the rows of groups [P], each for its query [P]."""
    numbers = numbers.reshape(-1, GROUP, numbers.shape[1])[groups]
    entries = [
        table.at[numbers[..., m], queries[:, None]].get(mode="promise_in_bounds")
        for m, table in enumerate(tables)
    ]
    return functools.reduce(jnp.add, entries)


def _as_distances(sums, block, shard, rows, least):
    """Moves and scales sums [n] of rows to distances, on the host.

    Compilers may round a product and a sum at once, or not, and NumPy never does: equal sums give
    equal bits everywhere.
    """
    distances = sums.astype(np.float32, copy=False)
    if shard.terms is None:
        return distances  # sums of squares or of bits, or without a least
    base, shift, scale = (np.asarray(term) for term in shard.terms)
    distances = base + scale[rows] * (shift[rows] + distances)
    return np.maximum(distances, np.float32(least))


def nearest_of_each(
    queries: np.ndarray, distances: np.ndarray, rows: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keeps the k nearest rows of each query, or all where there are fewer.

    Args:
      queries: Number of the query of each pair, [P].
      distances: [P].
      rows: [P]; of pairs of one query and one distance, those of lower rows come first.
      top_k: k.

    Returns:
      The same of the pairs that are kept, in order of query, distance and row.
    """
    order = np.lexsort((distances, queries))  # stable, and rows ascend
    queries = queries[order]
    place = np.arange(len(order)) - np.searchsorted(queries, queries)
    order = order[place < top_k]
    return queries[place < top_k], distances[order], rows[order]
