"""Searches an index: the exact nearest items of each query, with filters and re-ranking."""

import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.arrays import check_finite, check_shape
from quantjax.errors import InputError
from quantjax.index.artefact import Index
from quantjax.index.columns import check_codes
from quantjax.index.delegate import check_engine, nearest_by_faiss, put_delegate
from quantjax.index.delegate import serves as serves_faiss
from quantjax.index.finish import nearest
from quantjax.index.neighbours import nearest_vectors, vector_distances
from quantjax.index.probe import nearest_in_lists, put_probe
from quantjax.index.scan import put_block, put_shard, scan
from quantjax.index.shares import merged, shares
from quantjax.index.signs import nearest_signs, put_signs, serves
from quantjax.index.tables import width
from quantjax.quantizers import FloatCodec, NeuralResidualCodec

_QUERIES, _FEW = 32, 8  # queries of a block: their sums of two bytes fill processor registers
_TILE = 1 << 14  # items that are decoded at once

_latest: dict[str, tuple] = {}  # the codes of one search, and their copy on the devices


class SearchResult(NamedTuple):
    """Holds the nearest items of each query, nearest first.

    Attributes:
      distances: [Q, k] float32; smaller is nearer. Equal distances are ordered by row.
      ids: The items' ids, [Q, k] int64 or str objects, as in the index.
      rows: The items' rows in the index, [Q, k] int64.
    """

    distances: np.ndarray
    ids: np.ndarray
    rows: np.ndarray


def search(
    index: Index,
    queries: np.ndarray | jax.Array,
    *,
    top_k: int,
    symmetric: bool = False,
    allowed: np.ndarray | Sequence[int] | Sequence[str] | None = None,
    num_probes: int | None = None,
    rerank: int | None = None,
    mesh: Mesh | None = None,
    engine: str = "auto",
) -> SearchResult:
    """Finds the nearest items of each query, exactly by the codec's distances.

    The result is the same for any number of queries in a call, on any number of devices.

    Args:
      index: From `load`, or made in memory.
      queries: Embeddings [Q, D].
      top_k: k, items to find for each query.
      symmetric: Whether queries are quantized too (SQD), instead of compared as they are (AQD).
        Hamming distances always are between codes.
      allowed: The items to search among: a mask [N] bool, or ids. All when None.
      num_probes: Lists to scan for each query, in an index of inverted lists.
      rerank: Number of candidates to order anew by their kept vectors, at least k. The distances
        of the result are then those of the vectors: the codec's metric, or squared Euclid for
        Hamming codes.
      mesh: The devices that share the items; the default device when None. Inverted lists are
        searched on one device.
      engine: "own", "faiss", or "auto": an installed faiss where it is faster, on a CPU and for
        read-only codes, such as those of `load`. Rows of faiss may differ from ours where distances
        differ by less than 1e-5 of the query's largest.

    Returns:
      Distances, ids and rows.

    Raises:
      ValueError: if queries have another width than the codec or hold NaN, top_k is more than the
        items there are, or an option does not fit the index.
    """
    check_engine(index, mesh, engine)
    if symmetric and index.lists is not None:
        # Codes are those of residuals, and a query has another residual in each list.
        raise InputError("symmetric search takes no inverted lists; leave symmetric out")
    queries = _checked_queries(index, queries)
    among = _allowed_rows(index, allowed)
    _check_probes(index, num_probes)
    wanted = _checked_depth(index, top_k, rerank, len(index.codes) if among is None else len(among))
    # Candidates are found for the quantized queries, and ordered for the real ones.
    asked = _quantized(index.codec, queries) if symmetric else queries
    found = _searched(index, asked, among, wanted, num_probes, mesh, engine)
    _refuse_non_finite(found[0])
    if rerank is not None:
        found = _reranked(index, queries, found[1], top_k)
    distances, rows = found
    return SearchResult(distances, np.asarray(index.ids)[rows], rows)


def _checked_queries(index, queries):
    queries = np.asarray(queries)
    check_shape("queries", queries, "Q", width(index.codec))
    check_finite("queries", queries)
    return queries


def _allowed_rows(index, allowed):
    """Returns the rows to search among, [n] int64 ascending; None for all."""
    if allowed is None:
        return None
    allowed = np.asarray(allowed)
    if allowed.dtype == bool:
        check_shape("allowed", allowed, len(index.codes))
        return np.flatnonzero(allowed)
    known = np.asarray(index.ids)
    if allowed.dtype.kind in "iu" and known.dtype.kind in "iu":
        return np.flatnonzero(np.isin(known, allowed))
    # Python's own equality: NumPy would convert names and numbers to one type.
    wanted = set(allowed.tolist())
    return np.flatnonzero([each in wanted for each in known.tolist()])


def _checked_depth(index, top_k, rerank, count):
    """Returns how many items to find by codes: k, or the candidates of the re-ranking."""
    if rerank is not None and index.vectors is None:
        raise InputError("rerank needs the items' vectors; save the index with vectors=")
    if rerank is not None and rerank < top_k:
        raise InputError(f"rerank must be at least top_k = {top_k}, got {rerank}")
    if not count:
        raise InputError(f"allowed must leave items to search, got none of the {len(index.codes)}")
    if not 1 <= top_k <= count:
        raise InputError(f"top_k must be from 1 to {count}, the items to search, got {top_k}")
    return top_k if rerank is None else min(rerank, count)


def _check_probes(index, num_probes):
    if num_probes is not None and (index.lists is None or num_probes < 1):
        raise InputError(
            "num_probes must be 1 or more, for an index of inverted lists, got "
            f"{num_probes} for an index {'without' if index.lists is None else 'with'} lists"
        )


def _refuse_non_finite(distances):
    _refuse_rows(np.isfinite(distances).all(axis=1), 0)


def _refuse_rows(are_finite, start):
    """Raises ValueError if the distances of a query, numbered from `start`, are not finite."""
    bad = np.flatnonzero(~are_finite)
    if bad.size:
        raise InputError(
            f"distances of query {start + bad[0]} are infinite: scale embeddings whose squares "
            "float32 cannot hold"
        )


def _searched(index, queries, among, top_k, num_probes, mesh, engine):
    """Returns distances and rows [Q, k] of the nearest codes, among some rows or all."""
    codes = index.codes if among is None else index.codes[among]
    by_faiss = engine == "auto" and serves_faiss(index, is_whole=among is None)
    if by_faiss or engine == "faiss":
        found = _by_faiss(index, codes, among, queries, top_k, num_probes)
    elif index.lists is not None:
        found = _nearest_in_lists(index, codes, among, queries, top_k, num_probes)
    else:
        found = _nearest(index.codec, queries, codes, top_k, mesh)
    return found if among is None else (found[0], among[found[1]])


def _decoded(codec, codes):
    check_codes(codec, codes)
    tiles = (codes[start : start + _TILE] for start in range(0, len(codes), _TILE))
    return np.concatenate([np.asarray(codec.decode(tile)) for tile in tiles])


def _quantized(codec, queries):
    blocks = (codec.decode(codec.encode(block)) for block in _blocks(queries))
    return np.concatenate([np.asarray(block) for block in blocks])[: len(queries)]


def _blocks(queries):
    """Yields the queries in blocks of 32, the last block padded with zeros."""
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        yield np.pad(block, ((0, _QUERIES - len(block)), (0, 0)))


def _nearest(codec, queries, codes, top_k, mesh):
    """Returns distances and rows [Q, k] of the nearest codes, equal distances ordered by row."""
    if isinstance(codec, FloatCodec):
        vectors = np.ascontiguousarray(codes).view("<f4")
        return nearest_vectors(vectors, queries, top_k, metric=codec.metric, mesh=mesh)
    if isinstance(codec, NeuralResidualCodec):
        # No lookup table holds such distances: the items are decoded, 4 D bytes each.
        vectors = _kept(codes, ("decoded", codec), lambda: _decoded(codec, codes))
        return nearest_vectors(vectors, queries, top_k, metric=codec.metric, mesh=mesh)
    if not len(queries):
        return np.zeros((0, top_k), np.float32), np.zeros((0, top_k), np.int64)
    if mesh is None and serves(codec, len(queries)):
        signs = _kept(codes, ("signs", codec), lambda: put_signs(codec, codes))
        return nearest_signs(signs, queries, top_k)
    shards = _kept(codes, ("scan", codec, mesh), lambda: _shards(codec, codes, mesh))
    least = 0 if codec.metric == "l2" else -np.inf

    def nearest_of_block(start, size):
        block = queries[start : start + size]
        blocks = [put_block(block, size, shard) for shard in shards]
        # Tables of such a query are NaN, and no bound would hold.
        finite = np.isfinite(blocks[0].base) & np.isfinite(blocks[0].slack)
        _refuse_rows(finite[: blocks[0].count], start)
        scans = [scan(*pair, top_k) for pair in zip(blocks, shards, strict=True)]
        return [nearest(each, top_k, least) for each in scans]

    # In threads: a compiled scan takes one core, and NumPy's part of the work another.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda cut: nearest_of_block(*cut), _cuts(len(queries))))
    by_shard = [
        tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
    ]
    return merged(by_shard, top_k, mesh, len(queries))


def _by_faiss(index, codes, among, queries, top_k, num_probes):
    part = index._replace(codes=codes, lists=_lists_of_rows(index.lists, among))
    # Lists too: other lists of the same codes make another FAISS index.
    key = "faiss", index.codec, index.lists
    delegate = _kept(codes, key, lambda: put_delegate(part))
    return nearest_by_faiss(delegate, queries, top_k, num_probes)


def _lists_of_rows(lists, among):
    """Returns the lists of some rows: rows that are left out move starts, and leave their order."""
    if lists is None or among is None:
        return lists
    return lists._replace(starts=np.searchsorted(among, lists.starts))


def _nearest_in_lists(index, codes, among, queries, top_k, num_probes):
    lists = _lists_of_rows(index.lists, among)
    probe = _kept(
        codes, ("lists", index.codec, index.lists), lambda: put_probe(index.codec, codes, lists)
    )
    return nearest_in_lists(probe, queries, top_k, num_probes or len(lists.centroids))


def _cuts(num_queries):
    """Yields start and size of each block: 32 queries, and 8 where no more are left."""
    start = 0
    while start < num_queries:
        size = _FEW if num_queries - start <= _FEW else _QUERIES
        yield start, size
        start += size


def _shards(codec, codes, mesh):
    """Puts the codes on this process's devices."""
    # A number behind the last table entry would be read as the last one.
    check_codes(codec, codes)
    return [
        put_shard(codec, codes[rows], rows.start, device)
        for device, rows in shares(mesh, len(codes))
    ]


def _kept(codes, key, put):
    """Returns `put()`, or what it returned for the same codes at the latest search.

    A copy to the devices takes longer than the search for one query. Codes that can be written to
    are copied each time; `load` returns such as cannot.
    """
    known, *latest = _latest.get("codes", (lambda: None,))
    if known() is codes and all(a is b for a, b in zip(latest[0], key, strict=True)):
        return latest[1]
    _latest.clear()
    there = put()
    if not codes.flags.writeable:
        # Bound as a default: at the interpreter's end the module's names are gone first.
        _latest["codes"] = weakref.ref(codes, lambda _, latest=_latest: latest.clear()), key, there
    return there


def _reranked(index, queries, rows, top_k):
    """Orders candidates [Q, C] anew by the distances of their vectors, and keeps the nearest k."""
    rows = np.sort(rows, axis=1)
    distances = np.stack(
        [
            vector_distances(query, index.vectors[candidates], index.codec.metric)
            for query, candidates in zip(queries, rows, strict=True)
        ]
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
