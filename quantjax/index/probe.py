"""Searches inverted lists: only the rows of the lists whose centroids are nearest to a query.

Rows of a list are looked up in chunks, all chunks of a query at once. Every distance is computed,
and the host orders the few that are within a bound of the k-th.
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

_CHUNK = 16  # rows of one list that are looked up together


class Probe(NamedTuple):
    """Holds on the device what a search of inverted lists needs.

    A residual r of list c is at ||q - c||^2 + (||r||^2 + 2 <c, r>) - 2 <q, r> from a query. Only
    the last term takes a table, which serves all lists; the second is a number of the item.

    Attributes:
      codec: Of residuals.
      middle: Mean of the centroids, [D], on the host.
      centroids: [D, L], about their middle.
      squares: Squared lengths of the centroids, [L].
      lists: Lists of the items, on the host.
      begins: First chunk of each list, and the number of chunks at the end, [L + 1] int64.
      first: First row of each chunk, [C] int64, on the host.
      numbers: Table numbers [C, 16, M]. Each list is filled up to whole chunks.
      shift: ||r||^2 + 2 <c, r> of each row, [C, 16] float32; infinity fills up.
    """

    codec: ProductCodec
    middle: np.ndarray
    centroids: jax.Array
    squares: jax.Array
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
    centroids = centroids - middle
    starts = np.asarray(lists.starts)
    chunks = -(-np.diff(starts) // _CHUNK)
    begins = np.concatenate([[0], np.cumsum(chunks)])
    of_list = np.repeat(np.arange(len(centroids)), chunks)
    begin = starts[of_list] + _CHUNK * (np.arange(begins[-1]) - begins[of_list])
    # The last chunk of a list is filled up with copies of its first row, at infinity.
    rows = begin[:, None] + np.arange(_CHUNK)
    fills = rows >= starts[of_list + 1][:, None]
    codes = codes[np.where(fills, begin[:, None], rows)]
    there = (jnp.asarray(x) for x in (codes.reshape(-1, codes.shape[2]), fills))
    numbers, shift = _terms(codec, *there, centroids, of_list)
    return Probe(
        codec,
        np.asarray(middle),
        jnp.asarray(np.ascontiguousarray(np.asarray(centroids).T)),
        jnp.sum(jnp.square(centroids), axis=-1),
        lists._replace(starts=starts),
        begins,
        begin,
        numbers,
        shift,
    )


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
    of_row = jnp.repeat(of_list, _CHUNK, total_repeat_length=len(codes))
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
    size = tables.BLOCK
    blocks = [moved[start : start + size] for start in range(0, len(moved), size)]
    find = functools.partial(_nearest, probe, top_k=top_k, num_probes=num_probes)
    if len(blocks) < 2:
        found = [find(block) for block in blocks]
    else:
        # In threads: a compiled loop takes one core, and NumPy's part of the work another.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(find, blocks))
    empty = np.zeros((0, top_k), np.float32), np.zeros((0, top_k), np.int64)
    distances, rows = map(np.concatenate, zip(empty, *found, strict=True))
    return distances, rows


@jax.jit
def _tables(codec, centroids, squares, queries):
    """Returns tables of -2 <q, codeword>, [M, K] each, and distances to centroids, [8, L]."""
    halves = tables.tables(ProductCodec(codec.codebooks, codec.rotation, "ip"), queries)
    inner = jnp.matmul(queries, centroids, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(queries), axis=-1)[:, None] + squares
    # One array for each query: a table cut out in the inner loop is looked up half as fast.
    return [*(2 * halves.transpose(2, 0, 1))], jnp.maximum(squares - 2 * inner, 0)


def _nearest(probe, queries, top_k, num_probes):
    """Returns distances and rows [Q, k] of at most 8 queries."""
    # Always of 8 queries: another shape would round differently.
    padded = np.zeros((tables.BLOCK, queries.shape[1]), np.float32)
    padded[: len(queries)] = queries
    entries, gaps = _tables(probe.codec, probe.centroids, probe.squares, padded)
    gaps = np.asarray(gaps)[: len(queries)]
    plan = plan_probes(gaps, probe.lists.starts, top_k, num_probes)
    chunks = [_chunks(probe, *each) for each in zip(gaps, plan, strict=True)]
    # All start before the first one is waited for.
    every = [
        _distances(table, probe.numbers, probe.shift, *each)
        for table, each in zip(entries, chunks, strict=False)
    ]
    found = [
        _ordered(probe, np.asarray(distances), own, top_k)
        for distances, (own, _) in zip(every, chunks, strict=True)
    ]
    distances, rows = map(np.stack, zip(*found, strict=True))
    return distances, rows


def _chunks(probe, gaps, lists):
    """Returns the chunks of a query's lists, and the distance to the centroid of each chunk."""
    lists = np.sort(lists[lists >= 0])  # rows then ascend, and ties stay in order
    begins = probe.begins[lists]
    counts = probe.begins[lists + 1] - begins
    ends = np.cumsum(counts)
    # Four sizes in an octave, because each is compiled; what fills up is infinitely far.
    step = 1 << max(0, int(ends[-1]).bit_length() - 3)
    size = -(-ends[-1] // step) * step
    chunks, gap = np.zeros(size, np.int32), np.full(size, np.inf, np.float32)
    # Chunks of a list follow each other: a running number, moved to each list's first chunk.
    chunks[: ends[-1]] = np.arange(ends[-1]) + np.repeat(begins - (ends - counts), counts)
    gap[: ends[-1]] = np.repeat(gaps[lists], counts)
    return chunks, gap


@jax.jit
def _distances(table, numbers, shift, chunks, gap):
    """Returns the distances of the rows of chunks [P], [P * 16]."""
    codes, terms = (x.at[chunks].get(mode="promise_in_bounds") for x in (numbers, shift))
    sums = sums_of(table, codes.reshape(-1, codes.shape[-1])).reshape(terms.shape)
    return jnp.maximum(sums + terms + gap[:, None], 0).ravel()


def _ordered(probe, distances, chunks, top_k):
    """Returns the nearest k of the chunks' distances, and their rows."""
    places = first(distances, top_k)
    return distances[places], probe.first[chunks[places // _CHUNK]] + places % _CHUNK
