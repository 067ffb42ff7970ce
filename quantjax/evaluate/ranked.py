"""Counts of items at each real distance: a query's distances to the distinct codes, sorted.

Items of equal code get one distance, so that their tie is exact whatever the order of sums in
floating point, and that distance counts as often as there are items. Distances are computed in
tiles of fixed shape on the mesh; a query's are sorted whole on the host.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax import parallel
from quantjax.evaluate.relevance import Relevance
from quantjax.evaluate.stored import DistinctCodes, distinct_codes
from quantjax.quantizers import Codec

_QUERIES = 64
_DISTANCES = 1 << 24  # that are held at once: for a database that is larger, fewer queries
_ITEMS = 1 << 16  # distinct codes of a tile


class _Cells(NamedTuple):
    """Items of equal code and equal labels, by labels.

    Attributes:
      code: Number of the distinct code, [C].
      items: How many, [C].
      edges: Where the cells of each pattern of labels begin, and the last end, [P + 1].
    """

    code: np.ndarray
    items: np.ndarray
    edges: np.ndarray


def ranked_counts(
    codec: Codec,
    queries: np.ndarray,
    codes: np.ndarray,
    labels: Relevance,
    *,
    num_grades: int,
    mesh: Mesh | None = None,
    tile: int | None = None,
) -> Iterator[np.ndarray]:
    """Counts the items of each grade at each distance, nearest first.

    Args:
      codec: Measures the distances.
      queries: Embeddings [Q, D].
      codes: Codes of the database, [N, bytes] uint8.
      labels: Of both sides.
      num_grades: G; higher grades count as G - 1.
      mesh: The devices that compute distances; the default device when None.
      tile: Distinct codes of a tile; chosen when None.

    Yields:
      Counts [q, levels, G] int64 of the next queries. Neighbouring levels without a relevant item
      are one: nothing that is measured tells them apart.

    Raises:
      ValueError: if a distance is NaN, with its query.
    """
    mesh = parallel.data_mesh(jax.devices()[:1]) if mesh is None else mesh
    distinct = distinct_codes(codes)
    cells = _cells(distinct, labels)
    stored = np.ascontiguousarray(codes[distinct.first])
    num_queries = max(1, min(_QUERIES, len(queries), _DISTANCES // len(stored)))
    distances_of = _measurer(codec, stored, mesh, _ITEMS if tile is None else tile)
    with ThreadPoolExecutor() as pool:
        pending = distances_of(queries[:num_queries], num_queries)
        for start in range(0, len(queries), num_queries):
            behind = start + num_queries
            tiles = pending
            if behind < len(queries):  # computed while the host sorts
                pending = distances_of(queries[behind : behind + num_queries], num_queries)
            distances = np.concatenate([np.asarray(tile) for tile in tiles], axis=1)
            grades = labels.grades(slice(start, behind))
            distances = distances[: len(grades), : len(stored)]
            _refuse_nan(distances, start)
            grades = np.minimum(grades, num_grades - 1)
            count = functools.partial(_count_levels, cells, distinct.items, num_grades=num_grades)
            yield _stack(list(pool.map(count, distances, grades)))


def _cells(distinct: DistinctCodes, labels: Relevance) -> _Cells:
    num_codes = len(distinct.items)
    keys = labels.database.astype(np.int64) * num_codes + distinct.inverse
    keys, items = np.unique(keys, return_counts=True)
    pattern, code = np.divmod(keys, num_codes)
    return _Cells(code, items, np.searchsorted(pattern, np.arange(len(labels.patterns) + 1)))


def _measurer(codec, stored, mesh, tile):
    """Returns (queries, padded number of them) -> distances [q, T] of each tile, on devices."""
    tile = -(-min(tile, len(stored)) // mesh.size) * mesh.size
    codec = jax.device_put(codec, parallel.replicated(mesh))

    def distances_of(queries, num_queries):
        queries = np.pad(queries, ((0, num_queries - len(queries)), (0, 0)))
        queries = jax.device_put(queries, parallel.replicated(mesh))
        tiles = []
        for start in range(0, len(stored), tile):
            codes = stored[start : start + tile]
            codes = np.pad(codes, ((0, tile - len(codes)), (0, 0)))
            tiles.append(_distances(codec, queries, jax.device_put(codes, parallel.by_rows(mesh))))
        return tiles

    return distances_of


@jax.jit
def _distances(codec, queries, codes):
    return codec.distances(queries, codes)


def _refuse_nan(distances, start):
    rows = np.flatnonzero(np.isnan(distances).any(axis=1))
    if rows.size:
        raise ValueError(
            f"distances of query {start + rows[0]} hold NaN: look for a zero vector or a diverged "
            "loss"
        )


def _count_levels(cells, items, distances, grades, *, num_grades):
    """From distances [U] and grades [P] of one query to its counts [levels, G].

    All distances are sorted, and those of the relevant items; where the latter stand among the
    former says all. Values alone sort several times as fast as values with their places.
    """
    distances = distances + np.float32(0)  # -0 becomes 0
    ranking = np.sort(_repeat(distances, items))
    by_grade = []
    for grade in range(1, num_grades):
        chosen = _ranges(cells.edges, np.flatnonzero(grades == grade))
        values = np.sort(_repeat(distances[cells.code[chosen]], cells.items[chosen]))
        by_grade.append(values)
    relevant = np.sort(np.concatenate(by_grade)) if num_grades > 2 else by_grade[0]
    levels = relevant[np.append(True, relevant[1:] != relevant[:-1])] if len(relevant) else relevant
    counts = np.zeros((2 * len(levels) + 1, num_grades), np.int64)
    for grade, values in enumerate(by_grade, start=1):
        counts[1::2, grade] = np.diff(np.searchsorted(values, levels, side="right"), prepend=0)
    begins = np.searchsorted(ranking, levels, side="left")
    ends = begins + counts[1::2, 1:].sum(axis=1)
    tied = np.flatnonzero(ranking[np.minimum(ends, len(ranking) - 1)] == levels)
    ends[tied] = np.searchsorted(ranking, levels[tied], side="right")
    counts[1::2, 0] = ends - begins - counts[1::2, 1:].sum(axis=1)
    counts[::2, 0] = np.append(begins, len(ranking)) - np.append(0, ends)
    return counts


def _ranges(edges, which):
    """Returns the places from edges[i] to edges[i + 1] of each i in `which`."""
    if len(which) == 1:
        return slice(edges[which[0]], edges[which[0] + 1])
    lengths = edges[which + 1] - edges[which]
    before = np.cumsum(lengths) - lengths
    return np.repeat(edges[which] - before, lengths) + np.arange(lengths.sum())


def _repeat(values, times):
    return values if len(times) == 0 or times.max() == 1 else np.repeat(values, times)


def _stack(rows):
    levels = max(map(len, rows))
    return np.stack([np.pad(row, ((0, levels - len(row)), (0, 0))) for row in rows])
