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
from quantjax.index.lists import InvertedLists, plan_probes
from quantjax.index.shares import Found
from quantjax.quantizers import ProductCodec, product

_GROUP = 4  # rows of a list that are looked up together
_QUERIES = 32  # of a block, one thread's work at a time
_GROUPS = 1 << 15  # looked up at once, whose places and distances stay in cache


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
      numbers: Table numbers [G, 4, M]. Each list is filled up to whole groups.
      shift: ||r||^2 + 2 <c, r> of each row, [G, 4] float32; infinite for what fills up.
    """

    codec: ProductCodec
    middle: np.ndarray
    centroids: jax.Array
    lists: InvertedLists
    begins: np.ndarray
    first: np.ndarray
    numbers: jax.Array
    shift: jax.Array


def put_probe(codec: ProductCodec, codes: np.ndarray, lists: InvertedLists) -> Probe:
    """Copies codes to the device and computes the items' terms."""
    centroids = jnp.asarray(lists.centroids, jnp.float32)
    # About their middle: far from the origin the terms would lose the digits of distances.
    middle = jnp.mean(centroids, axis=0)
    starts = np.asarray(lists.starts)
    groups = -(-np.diff(starts) // _GROUP)
    begins = np.concatenate([[0], np.cumsum(groups)])
    of_list = np.repeat(np.arange(len(centroids)), groups)
    first = starts[of_list] + _GROUP * (np.arange(begins[-1]) - begins[of_list])
    rows = first[:, None] + np.arange(_GROUP)
    fills = rows >= starts[of_list + 1][:, None]
    codes = codes[np.where(fills, first[:, None], rows)]
    there = (jnp.asarray(x) for x in (codes.reshape(-1, codes.shape[2]), fills))
    numbers, shift = _terms(codec, *there, centroids - middle, of_list)
    known = np.asarray(middle), centroids - middle, lists._replace(starts=starts), begins, first
    return Probe(codec, *known, numbers, shift)


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
    """Returns tables of -2 <q, codeword>, [M * K, 8], and distances to centroids, [8, L]."""
    halves = tables.tables(ProductCodec(codec.codebooks, codec.rotation, "ip"), queries)
    inner = jnp.matmul(queries, centroids.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(queries), axis=-1)[:, None] + jnp.sum(
        jnp.square(centroids), axis=-1
    )
    return 2 * halves.reshape(-1, len(queries)), jnp.maximum(squares - 2 * inner, 0)


def _nearest(probe, queries, top_k, num_probes):
    """Returns distances and rows [Q, k] of a block of queries."""
    # Always of 8 queries: another shape would round differently.
    size = tables.BLOCK
    padded = np.pad(queries, ((0, -len(queries) % size), (0, 0)))
    parts = [
        _tables(probe.codec, probe.centroids, padded[i : i + size])
        for i in range(0, len(padded), size)
    ]
    entries = [part[0] for part in parts]
    gaps = np.concatenate([np.asarray(part[1]) for part in parts])[: len(queries)]
    groups, distances, counts = [], [], []
    for begin in range(0, len(queries), size):
        some = slice(begin, begin + size)
        plan = plan_probes(gaps[some], probe.lists.starts, top_k, num_probes)
        of_block = _groups(probe, gaps[some], plan)
        least = _looked_up(_least, probe, entries[begin // size], *of_block[:2])
        least += of_block[2]
        chosen = _within(least, of_block[3], top_k)
        group, query, gap = (x[chosen] for x in of_block[:3])
        exact = _looked_up(_every, probe, entries[begin // size], group, query) + gap[:, None]
        groups.append(probe.first[group])
        distances.append(exact)
        counts.append(np.bincount(query, minlength=len(plan)))
    return _ordered(*map(np.concatenate, (distances, groups, counts)), top_k)


def _groups(probe, gaps, plan):
    """Returns group, query and gap of all groups to look up, and how many each query has."""
    # A list that is not there has no groups.
    lists = np.where(plan < 0, len(probe.begins) - 1, plan)
    sizes = np.append(np.diff(probe.begins), 0)[lists]
    counts = sizes.ravel()
    gap = np.take_along_axis(gaps, np.minimum(lists, gaps.shape[1] - 1), 1).ravel()
    move = probe.begins[lists].ravel() - (np.cumsum(counts) - counts)
    group = np.arange(counts.sum(), dtype=np.int32) + np.repeat(move.astype(np.int32), counts)
    each = sizes.sum(1)
    query = np.repeat(np.arange(len(plan), dtype=np.int32), each)
    return group, query, np.repeat(gap, counts), each


def _looked_up(look_up, probe, entries, groups, queries):
    """Applies a compiled function to groups [P] and their queries [P], some at a time."""
    parts = []
    for start in range(0, len(groups), _GROUPS):
        some = groups[start : start + _GROUPS], queries[start : start + _GROUPS]
        # Sizes of few kinds, because each is compiled.
        padding = (1 << max(8, (len(some[0]) - 1).bit_length())) - len(some[0])
        group, query = (np.pad(each, (0, padding)) for each in some)
        places, shift = _places(entries, probe.numbers, probe.shift, group)
        parts.append((look_up(entries, places, shift, query), len(some[0])))
    return np.concatenate([np.asarray(part)[:count] for part, count in parts])


@jax.jit
def _places(entries, numbers, shift, groups):
    """Returns places of table entries [P, 4, M], and shifts [P, 4].

    Compiled apart from the sums, or it would be computed anew for each of the 8 queries.
    """
    of_book = len(entries) // numbers.shape[2] * jnp.arange(numbers.shape[2])
    return of_book + numbers[groups].astype(jnp.int32), shift[groups]


def _sums(entries, places, shift):
    """Returns sums of table entries and shifts of each of 4 rows, [P, 8] each."""
    # In one order for every row. All 8 queries are looked up, although one is asked for: their
    # entries lie side by side, and one load of 8 is faster than a search for one.
    for row in range(_GROUP):
        found = [
            entries.at[places[:, row, m]].get(mode="promise_in_bounds")
            for m in range(places.shape[2])
        ]
        yield functools.reduce(jnp.add, found) + shift[:, row, None]


@jax.jit
def _least_of_8(entries, places, shift):
    return functools.reduce(jnp.minimum, _sums(entries, places, shift))


@jax.jit
def _of_query(sums, query):
    return jnp.take_along_axis(sums, query[:, None], axis=1)[:, 0]


def _least(entries, places, shift, query):
    """Returns the least sum of each group for its query, [P]."""
    return _of_query(_least_of_8(entries, places, shift), query)


@jax.jit
def _every(entries, places, shift, query):
    """Returns the sums of each group's rows for its query, [P, 4]."""
    sums = jnp.stack(list(_sums(entries, places, shift)), axis=1)
    return jnp.take_along_axis(sums, query[:, None, None], axis=2)[:, :, 0]


def _within(least, counts, top_k):
    """Returns places of the groups that may hold one of their query's k nearest rows."""
    chosen, end = [], 0
    for count in counts:
        some = least[end : end + count]
        # k groups hold k rows at least as near as their own least sums; fewer groups are all taken.
        bound = np.partition(some, top_k - 1)[top_k - 1] if top_k < count else np.inf
        chosen.append(end + np.flatnonzero(some <= bound))
        end += count
    return np.concatenate(chosen)


def _ordered(distances, first, counts, top_k):
    """Returns the nearest k of each query, of distances [P, 4] and the groups' first rows [P]."""
    rows = (first[:, None] + np.arange(_GROUP)).ravel()
    distances = np.maximum(distances, 0).ravel()
    found, end = [], 0
    for count in _GROUP * counts:
        some = slice(end, end + count)
        order = np.lexsort((rows[some], distances[some]))[:top_k]
        found.append((distances[some][order], rows[some][order]))
        end += count
    return tuple(map(np.stack, zip(*found, strict=True)))
