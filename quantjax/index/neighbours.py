"""Finds the exact nearest vectors of each query, in one pass over a database of any size.

A matrix product finds the few rows that may be near, and float64 settles their distances: they are
right far from the origin too, and the same in any tile and on any number of devices.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax.arrays import check_finite, check_shape
from quantjax.errors import InputError
from quantjax.index.finish import nearest_of_each
from quantjax.index.shares import Found, merged, shares
from quantjax.quantizers import product
from quantjax.quantizers.product import root

_ROWS = 1 << 14  # of a chunk
_QUERIES = 256
_GROUP = 4  # rows of which only the nearest is looked at, first
_PAIRS = 1 << 12  # groups whose distances are computed at once, in float64


def true_neighbours(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    metric: str = "l2",
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Finds the k nearest vectors of each query exactly, by comparing it with all of them.

    Distances are computed in float64 and rounded to float32; equal ones are ordered by row.

    Args:
      vectors: Database [N, D] of real numbers. Of a memory map only a chunk is read at a time.
      queries: [Q, D].
      k: Neighbours to find for each query.
      metric: "l2", "ip" (the largest inner product is nearest) or "cosine".
      mesh: The devices that share the database; the default device when None.

    Returns:
      Rows of the neighbours, [Q, k] int64, nearest first.

    Raises:
      ValueError: if the widths differ, a number is NaN or infinite, or k is not from 1 to N.
    """
    product.check_metric(metric)
    vectors, queries = np.asanyarray(vectors), np.asarray(queries)
    check_shape("vectors", vectors, "N", "D")
    check_shape("queries", queries, "Q", vectors.shape[1])
    check_finite("queries", queries)
    if not 1 <= k <= len(vectors):
        raise InputError(f"k must be from 1 to {len(vectors)}, the number of vectors, got {k}")
    return nearest_vectors(vectors, queries, k, metric=metric, mesh=mesh)[1]


def nearest_vectors(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, metric: str, mesh: Mesh | None
) -> Found:
    """Returns the distances [Q, k] float32 and rows [Q, k] int64 of `true_neighbours`."""
    queries = np.asarray(queries, np.float32)
    search = functools.partial(_nearest_in, vectors, queries, k, metric)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda share: search(*share), shares(mesh, len(vectors))))
    return merged(found, k, mesh, len(queries))


def vector_distances(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """Returns the distance of each query to the vector beside it, [...] float32.

    In float64, rounded at the end, so that the number of pairs does not change the bits.

    Args:
      queries: [..., D].
      vectors: [..., D].
      metric: "ip", "cosine", or squared Euclid for any other.
    """
    queries, vectors = np.asarray(queries, np.float64), np.asarray(vectors, np.float64)
    if metric not in ("ip", "cosine"):
        return np.square(queries - vectors).sum(-1).astype(np.float32)
    products = (queries * vectors).sum(-1)
    if metric == "ip":
        return (-products).astype(np.float32)
    lengths = np.sqrt(np.square(queries).sum(-1)) * np.sqrt(np.square(vectors).sum(-1))
    return (1 - products / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _nearest_in(vectors, queries, k, metric, device, rows):
    """Finds the nearest among some rows of the database, on one device."""
    k = min(k, rows.stop - rows.start)
    blocks = [queries[i : i + _QUERIES] for i in range(0, len(queries), _QUERIES)]
    empty = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64)
    best = [empty] * len(blocks)
    on_device = [jax.device_put(_padded(block, _QUERIES), device) for block in blocks]
    centre = None
    for start in range(rows.start, rows.stop, _ROWS):
        chunk = np.asarray(vectors[start : min(start + _ROWS, rows.stop)], np.float32)
        _refuse_non_finite(chunk, start)
        # Products of vectors far from the origin would lose the digits that tell them apart.
        centre = chunk.mean(0) if centre is None else centre
        there = jax.device_put(_padded(chunk, _ROWS), device)
        for i, block in enumerate(blocks):
            least, error = _least_distances(on_device[i], there, centre, metric)
            least, error = np.asarray(least)[: len(block)], np.asarray(error)[: len(block)]
            pairs = _near_groups(least[:, : -(-len(chunk) // _GROUP)], error, best[i], k)
            found = [best[i], *_settled(pairs, block, chunk, start, metric)]
            joined = map(np.concatenate, zip(*found, strict=True))
            best[i] = nearest_of_each(*joined, k)
    distances, numbers = (
        np.concatenate(each).reshape(-1, k) for each in list(zip(*best, strict=True))[1:]
    )
    return distances, numbers


@functools.partial(jax.jit, static_argnames="metric")
def _least_distances(queries, vectors, centre, metric):
    """Returns the least distance of every 4 vectors, [Q, R / 4], and its largest error, [Q]."""
    if metric == "l2":
        queries, vectors = queries - centre, vectors - centre
    if metric == "cosine":
        queries, vectors = (
            x / jnp.maximum(root(jnp.sum(jnp.square(x), axis=-1, keepdims=True)), 1e-30)
            for x in (queries, vectors)
        )
    distances = -jnp.matmul(vectors, queries.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(queries), axis=-1), jnp.sum(jnp.square(vectors), axis=-1)
    if metric == "l2":
        distances = squares[0] + squares[1][:, None] + 2 * distances
    if metric == "cosine":
        distances = 1 + distances
    # Selection costs more than the products, and a group is looked at as one.
    groups = distances.reshape(-1, _GROUP, len(queries))
    # The largest rounding of a sum of D products, and of what the sums are put together from.
    roundings = 4 * (queries.shape[1] + 8) * jnp.finfo(jnp.float32).eps
    error = roundings * jnp.square(root(squares[0]) + root(jnp.max(squares[1])))
    return jnp.min(groups, axis=1).T, error


def _near_groups(least, error, best, k):
    """Returns query and group of the groups that may hold one of the k nearest so far."""
    # No limit until k rows are known, by groups of this chunk or by earlier chunks.
    limit = np.full(len(least), np.inf, np.float32)
    if least.shape[1] >= k:
        limit = np.partition(least, k - 1, axis=1)[:, k - 1] + error
    if len(best[0]) == k * len(least):
        limit = np.minimum(limit, best[1].reshape(-1, k)[:, -1])
    return np.nonzero(least <= (limit + error)[:, None])


def _settled(pairs, queries, chunk, start, metric):
    """Yields query, distance and row of all rows of groups, some at a time."""
    for place in range(0, len(pairs[0]), _PAIRS):
        query, group = (each[place : place + _PAIRS] for each in pairs)
        rows = (group[:, None] * _GROUP + np.arange(_GROUP)).ravel()
        query = np.repeat(query, _GROUP)
        query, rows = query[rows < len(chunk)], rows[rows < len(chunk)]
        yield query, vector_distances(queries[query], chunk[rows], metric), start + rows


def _padded(x, num_rows):
    return np.pad(x, ((0, num_rows - len(x)), (0, 0)), "edge")


def _refuse_non_finite(chunk, start):
    bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1))
    if bad.size:
        raise InputError(
            f"vectors must be numbers, got NaN or infinity in row {start + bad[0]}: look for a "
            "diverged loss, or for numbers that float16 or float32 cannot hold"
        )
