"""Searches inverted lists: only the rows of the lists whose centroids are nearest to a query.

As in a scan of all items, a first pass keeps the least distance of each group of 4 rows, the k-th
least bounds what can be among the k nearest, and only rows of groups within the bound are ordered.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index import tables
from quantjax.index.finish import first
from quantjax.index.lists import InvertedLists, plan_probes
from quantjax.index.scan import sums_of
from quantjax.index.shares import Found
from quantjax.quantizers import ProductCodec, product

_GROUP = 4  # rows of a list that are looked up together
_QUERIES = 32  # of a block, one thread's work at a time
_GROUPS = 1 << 14  # looked up at once, whose places and distances stay in cache


class Probe(NamedTuple):
    """Holds on the device what a search of inverted lists needs.

    A residual r of list c is at ||q - c||^2 + (||r||^2 + 2 <c, r>) - 2 <q, r> from a query. Only
    the last term takes a table, which serves all lists; the second is a number of the item.

    Attributes:
      codec: Of residuals.
      middle: Mean of the centroids, [D], on the host.
      centroids: [L, D], about their middle.
      lists: Lists of the items, on the host.
      begins: First group of each list, and the number of groups at the end, [L + 1] int64.
      first: First row of each group, [G] int64, on the host.
      numbers: Table numbers [G, 4, M], on the host. Each list is filled up to whole groups.
      shift: ||r||^2 + 2 <c, r> of each row, [G, 4] float32, on the host; infinity fills up.
    """

    codec: ProductCodec
    middle: np.ndarray
    centroids: jax.Array
    lists: InvertedLists
    begins: np.ndarray
    first: np.ndarray
    numbers: np.ndarray
    shift: np.ndarray


def put_probe(codec: ProductCodec, codes: np.ndarray, lists: InvertedLists) -> Probe:
    """Copies codes to the device and computes the items' terms."""
    centroids = jnp.asarray(lists.centroids, jnp.float32)
    # About their middle: far from the origin the terms would lose the digits of distances.
    middle = jnp.mean(centroids, axis=0)
    starts = np.asarray(lists.starts)
    groups = -(-np.diff(starts) // _GROUP)
    begins = np.concatenate([[0], np.cumsum(groups)])
    of_list = np.repeat(np.arange(len(centroids)), groups)
    begin = starts[of_list] + _GROUP * (np.arange(begins[-1]) - begins[of_list])
    # The last group of a list is filled up with copies of its first row, at infinity.
    rows = begin[:, None] + np.arange(_GROUP)
    fills = rows >= starts[of_list + 1][:, None]
    codes = codes[np.where(fills, begin[:, None], rows)]
    there = (jnp.asarray(x) for x in (codes.reshape(-1, codes.shape[2]), fills))
    numbers, shift = _terms(codec, *there, centroids - middle, of_list)
    known = np.asarray(middle), centroids - middle, lists._replace(starts=starts), begins, begin
    # NumPy copies whole groups several times as fast as a compiled gather of their numbers.
    return Probe(codec, *known, np.asarray(numbers), np.asarray(shift))


@jax.jit
def _terms(codec, codes, fills, centroids, of_list):
    # ||r||^2 and <c, r> are sums over codebooks as well: no residual is decoded.
    assignments = codec.assignments(codes)
    books = jnp.asarray(codec.codebooks, jnp.float32)
    if codec.rotation is not None:
        centroids = jnp.matmul(centroids, codec.rotation, precision=jax.lax.Precision.HIGHEST)
    slices = product.split(centroids, len(books))
    inner = jnp.einsum("mld,mkd->mlk", slices, books, precision=jax.lax.Precision.HIGHEST)
    entries = jnp.sum(jnp.square(books), axis=-1)[:, None] + 2 * inner
    of_row = jnp.repeat(of_list, _GROUP, total_repeat_length=len(codes))
    of_item = (table[of_row, assignments[:, m]] for m, table in enumerate(entries))
    shift = functools.reduce(jnp.add, of_item).reshape(fills.shape)
    numbers = tables.numbers(codec, codes)
    return numbers.reshape(*fills.shape, -1), jnp.where(fills, jnp.inf, shift)


def nearest_in_lists(probe: Probe, queries: np.ndarray, top_k: int, num_probes: int) -> Found:
    """Finds the nearest items in the nearest lists of each query.

    As many lists more are probed as it takes to find k items.

    Args:
      probe: The items.
      queries: [Q, D].
      top_k: k, at most the number of items.
      num_probes: Lists to scan for each query.

    Returns:
      Distances [Q, k] float32 and rows [Q, k] int64; equal distances are ordered by row.
    """
    moved = np.asarray(queries, np.float32) - probe.middle
    blocks = [moved[start : start + _QUERIES] for start in range(0, len(moved), _QUERIES)]
    if len(blocks) < 2:
        found = [_nearest(probe, block, top_k, num_probes) for block in blocks]
    else:
        # In threads: a compiled scan takes one core, and NumPy's part of the work another.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda block: _nearest(probe, block, top_k, num_probes), blocks))
    empty = np.zeros((0, top_k), np.float32), np.zeros((0, top_k), np.int64)
    distances, rows = map(np.concatenate, zip(empty, *found, strict=True))
    return distances, rows


@jax.jit
def _tables(codec, centroids, queries):
    """Returns tables of -2 <q, codeword>, [M, K, 8], and distances to centroids, [8, L]."""
    halves = tables.tables(ProductCodec(codec.codebooks, codec.rotation, "ip"), queries)
    inner = jnp.matmul(queries, centroids.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(queries), axis=-1)[:, None] + jnp.sum(
        jnp.square(centroids), axis=-1
    )
    return 2 * halves, jnp.maximum(squares - 2 * inner, 0)


def _nearest(probe, queries, top_k, num_probes):
    """Returns distances and rows [Q, k] of a block of queries."""
    size, found = tables.BLOCK, []
    for begin in range(0, len(queries), size):
        some = queries[begin : begin + size]
        # Always of 8 queries: another shape would round differently.
        padded = np.pad(some, ((0, size - len(some)), (0, 0)))
        entries, gaps = _tables(probe.codec, probe.centroids, padded)
        gaps = np.asarray(gaps)[: len(some)]
        plan = plan_probes(gaps, probe.lists.starts, top_k, num_probes)
        found += _nearest_in_plan(probe, entries, gaps, plan, top_k)
    return tuple(map(np.stack, zip(*found, strict=True)))


def _nearest_in_plan(probe, entries, gaps, plan, top_k):
    """Returns distances and rows [k] of each of at most 8 queries."""
    of_query = [_groups(probe, *each) for each in zip(gaps, plan, strict=True)]
    # First the least of each group, then every row of the groups that may matter.
    least = _looked_up(_least, probe, entries, [groups for groups, _ in of_query])
    kept = []
    for sums, (groups, gap) in zip(least, of_query, strict=True):
        near = _within(sums + gap, top_k)
        kept.append((groups[near], gap[near]))
    every = _looked_up(_every, probe, entries, [groups for groups, _ in kept])
    return [
        _ordered(sums + gap[:, None], probe.first[groups], top_k)
        for sums, (groups, gap) in zip(every, kept, strict=True)
    ]


def _groups(probe, gaps, lists):
    """Returns the groups of a query's lists, and the distance to the centroid of each group."""
    lists = np.sort(lists[lists >= 0])  # rows then ascend, and ties stay in order
    begins, counts = probe.begins[lists], probe.begins[lists + 1] - probe.begins[lists]
    # Groups of a list follow each other: a running number, moved to each list's first group.
    moves = np.repeat(begins - (np.cumsum(counts) - counts), counts)
    return np.arange(len(moves)) + moves, np.repeat(gaps[lists], counts)


def _looked_up(look_up, probe, entries, groups):
    """Applies a compiled function to the groups of all queries, some at a time.

    Returns:
      What it gives for each query's own groups: arrays [groups, ...].
    """
    counts = [len(each) for each in groups]
    every, parts = np.concatenate(groups), []
    of_group = np.repeat(np.arange(len(groups)), counts)
    for start in range(0, len(every), _GROUPS):
        some, query = every[start : start + _GROUPS], of_group[start : start + _GROUPS]
        # Sizes of few kinds, because each is compiled.
        padded = np.pad(some, (0, (1 << max(8, (len(some) - 1).bit_length())) - len(some)))
        found = look_up(entries, _taken(probe.numbers, padded), _taken(probe.shift, padded))
        # At once, while all 8 queries' sums are in cache.
        parts.append(np.asarray(found)[np.arange(len(some)), ..., query])
    return np.split(np.concatenate(parts), np.cumsum(counts)[:-1])


def _taken(x, groups):
    # As single items of many bytes, which are copied at once.
    items = x.reshape(len(x), -1).view(f"V{x[0].nbytes}")[:, 0]
    return items.take(groups).view(x.dtype).reshape(-1, *x.shape[1:])


def _sums(entries, numbers, shift):
    """Returns sums of table entries and shifts of each of 4 rows, [P, 8] each.

    All 8 queries are looked up, although one is asked for: their entries lie side by side, and one
    load of 8 is faster than a load for one.
    """
    return [sums_of(entries, numbers[:, i]) + shift[:, i, None] for i in range(_GROUP)]


@jax.jit
def _least(entries, numbers, shift):
    """Returns the least sum of each group, [P, 8]."""
    return functools.reduce(jnp.minimum, _sums(entries, numbers, shift))


@jax.jit
def _every(entries, numbers, shift):
    """Returns the sums of each group's rows, [P, 4, 8]."""
    return jnp.stack(_sums(entries, numbers, shift), axis=1)


def _within(least, top_k):
    """Returns places of the groups that may hold one of the k nearest rows."""
    # k groups hold k rows at least as near as their own least sums; fewer groups are all taken.
    if top_k >= len(least):
        return np.arange(len(least))
    return np.flatnonzero(least <= np.partition(least, top_k - 1)[top_k - 1])


def _ordered(distances, begins, top_k):
    """Returns the nearest k of distances [P, 4] and their rows, for groups' first rows [P]."""
    rows = (begins[:, None] + np.arange(_GROUP)).ravel()
    distances = np.maximum(distances, 0).ravel()
    near = first(distances, top_k)
    return distances[near], rows[near]
