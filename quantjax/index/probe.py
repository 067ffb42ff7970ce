"""Searches inverted lists: only the rows of the lists whose centroids are nearest to a query."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index import tables
from quantjax.index.finish import first
from quantjax.index.lists import InvertedLists
from quantjax.index.shares import Found
from quantjax.quantizers import ProductCodec, product

_GROUP = 4  # rows of a list that are looked up together
_QUERIES = 64  # of a block, whose distances to the centroids are one product
_PAIRS = 1 << 20  # groups of rows that are held at once


class Probe(NamedTuple):
    """Holds on the device what a search of inverted lists needs.

    A residual r of list c is at ||q - c||^2 + (||r||^2 + 2 <c, r>) - 2 <q, r> from a query. Only
    the last term takes a table, which serves all lists; the second is a number of the item.

    Attributes:
      codec: Of residuals.
      middle: Mean of the centroids, [D], on the host.
      centroids: [L, D], about their middle.
      starts: [L + 1] int64, on the host.
      numbers: Table numbers [N, M].
      shift: ||r||^2 + 2 <c, r> of each item, [N] float32.
    """

    codec: ProductCodec
    middle: np.ndarray
    centroids: jax.Array
    starts: np.ndarray
    numbers: jax.Array
    shift: jax.Array


def put_probe(codec: ProductCodec, codes: np.ndarray, lists: InvertedLists) -> Probe:
    """Copies codes to the device and computes the items' terms."""
    centroids = jnp.asarray(lists.centroids, jnp.float32)
    # About their middle: far from the origin the terms would lose the digits of distances.
    middle = jnp.mean(centroids, axis=0)
    of_list = np.repeat(np.arange(len(centroids)), np.diff(lists.starts))
    numbers, shift = _terms(codec, jnp.asarray(codes), centroids - middle, of_list)
    starts = np.asarray(lists.starts)
    return Probe(codec, np.asarray(middle), centroids - middle, starts, numbers, shift)


@jax.jit
def _terms(codec, codes, centroids, of_list):
    # ||r||^2 and <c, r> are sums over codebooks as well: no residual is decoded.
    assignments = codec.assignments(codes)
    books = jnp.asarray(codec.codebooks, jnp.float32)
    if codec.rotation is not None:
        centroids = jnp.matmul(centroids, codec.rotation, precision=jax.lax.Precision.HIGHEST)
    slices = product.split(centroids, len(books))
    inner = jnp.einsum("mld,mkd->mlk", slices, books, precision=jax.lax.Precision.HIGHEST)
    entries = jnp.sum(jnp.square(books), axis=-1)[:, None] + 2 * inner
    of_item = (table[of_list, assignments[:, m]] for m, table in enumerate(entries))
    return tables.numbers(codec, codes), functools.reduce(jnp.add, of_item)


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
    found = []
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        padded = np.pad(block - probe.middle, ((0, _QUERIES - len(block)), (0, 0)))
        gaps = np.asarray(_gaps(jnp.asarray(padded), probe.centroids))[: len(block)]
        entries = np.concatenate(
            [
                np.asarray(_entries(probe.codec, padded[i : i + tables.BLOCK]))
                for i in range(0, len(block), tables.BLOCK)
            ]
        )
        plan = _plan(gaps, probe.starts, top_k, num_probes)
        found += _nearest_in_plan(probe, entries, gaps, plan, top_k)
    distances, rows = map(np.stack, zip(*found, strict=True))
    return distances, rows


@jax.jit
def _gaps(queries, centroids):
    """Returns squared distances of queries to centroids, [Q, L]."""
    inner = jnp.matmul(queries, centroids.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(queries), axis=-1)[:, None] + jnp.sum(
        jnp.square(centroids), axis=-1
    )
    return jnp.maximum(squares - 2 * inner, 0)


@jax.jit
def _entries(codec, queries):
    """Returns tables of -2 <q, codeword>, [Q, M * K]: the numbers of a query side by side."""
    halves = tables.tables(ProductCodec(codec.codebooks, codec.rotation, "ip"), queries)
    return 2 * halves.transpose(2, 0, 1).reshape(len(queries), -1)


def _plan(gaps, starts, top_k, num_probes):
    """Returns the lists that each query probes, in ascending order."""
    sizes = np.diff(starts)
    order = np.argsort(gaps, axis=1, kind="stable")
    # Few probes may hold fewer than k items: the next nearest lists fill up.
    enough = np.argmax(np.cumsum(sizes[order], axis=1) >= top_k, axis=1) + 1
    return [
        np.sort(row[: max(num_probes, least)]) for row, least in zip(order, enough, strict=True)
    ]


def _nearest_in_plan(probe, entries, gaps, plan, top_k):
    """Yields distances and rows [k] of each query."""
    groups = -(-np.diff(probe.starts) // _GROUP)
    each = np.array([groups[lists].sum() for lists in plan])
    begin = 0
    while begin < len(plan):
        behind = begin + max(1, int(np.searchsorted(np.cumsum(each[begin:]), _PAIRS, "right")))
        part = slice(begin, behind)
        yield from _scanned(probe, entries[part], gaps[part], plan[part], each[part], top_k)
        begin = behind


def _scanned(probe, entries, gaps, plan, each, top_k):
    # One pair for each query and probed list; lists are cut into groups of 4 rows.
    lists = np.concatenate(plan)
    query = np.repeat(np.arange(len(plan)), [len(some) for some in plan])
    starts, sizes = probe.starts[lists], np.diff(probe.starts)[lists]
    counts = -(-sizes // _GROUP)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = np.repeat(starts, counts) + _GROUP * inside
    # Sizes of few kinds, because each is compiled.
    padding = (1 << max(8, (len(begins) - 1).bit_length())) - len(begins)
    of_query = np.repeat(query, counts)
    padded = (np.pad(x.astype(np.int32), (0, padding)) for x in (begins, of_query))
    sums = np.asarray(_sums(_same_height(entries), probe.numbers, probe.shift, *padded))
    distances = sums[: len(begins)] + np.repeat(gaps[query, lists], counts)[:, None]
    rows = begins[:, None] + np.arange(_GROUP)
    # The last group of a list reaches into the next list.
    distances[rows >= np.repeat(starts + sizes, counts)[:, None]] = np.inf
    np.maximum(distances, 0, out=distances)
    # Lists ascend within a query, and so do rows: `first` breaks ties by row.
    end = 0
    for number in each:
        some, numbers = distances[end : end + number].ravel(), rows[end : end + number].ravel()
        chosen = first(some, top_k)
        yield some[chosen], numbers[chosen]
        end += number


def _same_height(entries):
    return np.pad(entries, ((0, _QUERIES - len(entries)), (0, 0)))


@jax.jit
def _sums(entries, numbers, shift, begins, query):
    """Returns sums of table entries and shifts, [P, 4], for the rows from `begins` on."""
    rows = jnp.minimum(begins[:, None] + jnp.arange(_GROUP), len(numbers) - 1)
    width = entries.shape[1] // numbers.shape[1]
    found = [
        entries.at[query[:, None], m * width + numbers[rows, m].astype(jnp.int32)].get(
            mode="promise_in_bounds"
        )
        for m in range(numbers.shape[1])
    ]
    return functools.reduce(jnp.add, found) + shift[rows]
