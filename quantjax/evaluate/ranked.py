"""Counts items at each real distance, by sorting each query's distances to the distinct codes.

Items of equal code share one computed distance, so that their tie is exact for any order of
floating-point sums. The distance counts once per item. Distances are computed in tiles of fixed
shape on the mesh, and sorted on the host.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.errors import InputError
from quantjax.evaluate.relevance import Relevance
from quantjax.quantizers import Codec
from quantjax.run import parallel

# Distances are computed in a fixed shape for any number of devices and queries: compiled products
# of another shape add up in another order, and equal distances would come out unequal.
_ITEMS = 1 << 14  # distinct codes of a device's tile, the most
_BYTES = 1 << 25  # of those codes, the most
_QUERIES = 64
_DISTANCES = 1 << 24  # that are held at once: of larger databases, for fewer queries
_COUNTS = 1 << 20  # that are held at once, in cache: of larger databases, of fewer queries


class DistinctCodes(NamedTuple):
    """Distinct codes of a database and the items of each; made by `distinct_codes`.

    Attributes:
      first: First item of each code, [U]; codes are in the order of their bytes.
      inverse: Number of each item's code, [N].
      items: Number of items of each code, [U] int64.
    """

    first: np.ndarray
    inverse: np.ndarray
    items: np.ndarray

    @property
    def entropy(self) -> float:
        """Returns the codes' entropy in bits, from 0 (all equal) to log2 N (all different)."""
        share = self.items / self.items.sum()
        return float(np.sum(share * np.log2(1 / share)))


def distinct_codes(codes: np.ndarray) -> DistinctCodes:
    """Groups the items of a database by equal code.

    Args:
      codes: Codes [N, bytes] uint8.

    Returns:
      The distinct codes, sorted by their bytes, so that the order of storage does not matter.
    """
    if codes.shape[1] <= 8:
        # Up to 8 bytes become big-endian integers, which sort like the bytes and much faster.
        padded = np.pad(codes, ((0, 0), (8 - codes.shape[1], 0)))
        scalars = padded.view(">u8").ravel().astype(np.uint64)
    else:
        codes = np.ascontiguousarray(codes)
        scalars = codes.view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, inverse, items = np.unique(
        scalars, return_index=True, return_inverse=True, return_counts=True
    )
    return DistinctCodes(first, inverse, items)


class _Cells(NamedTuple):
    """Groups of items with equal code and equal labels, ordered by labels.

    Attributes:
      code: Number of the distinct code, [C].
      items: Number of items, [C].
      edges: Start of each label pattern's cells, and the end of the last, [P + 1].
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
    own: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Counts the items of each grade at each distance from a query, nearest distance first.

    Args:
      codec: Codec that computes the distances.
      queries: Embeddings [Q, D].
      codes: Codes of the database, [N, bytes] uint8.
      labels: Labels of both sides.
      num_grades: G; higher grades count as G - 1.
      mesh: The devices that compute distances; the default device when None.
      own: Each query's own item, [Q], which its ranking leaves out. None where queries are not
        items.

    Yields:
      Counts [q, levels, G] int64 of the next queries. Neighbouring levels without a relevant item
      are merged, because no measure distinguishes them.

    Raises:
      ValueError: if a distance is NaN or infinite, with its query.
    """
    mesh = parallel.data_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    distinct = distinct_codes(codes)
    stored = np.ascontiguousarray(codes[distinct.first])
    num_queries = _power_of_two(min(_QUERIES, _DISTANCES // len(stored)))
    num_items = _power_of_two(min(_ITEMS, _BYTES // codec.num_bytes))
    distances_of = _measurer(codec, stored, mesh, (num_queries, num_items))

    def tiles_of_queries():
        pending = distances_of(queries[:num_queries])
        for start in range(0, len(queries), num_queries):
            tiles, behind = pending, start + num_queries
            if behind < len(queries):  # computed while the host sorts
                pending = distances_of(queries[behind : behind + num_queries])
            rows = min(num_queries, len(queries) - start)
            joined = np.concatenate([np.asarray(tile)[:rows] for tile in tiles], axis=1)
            distances = joined[:, : len(stored)]  # without the padding at the end
            _refuse_non_finite(codec, distances, start)
            yield distances

    yield from _counted(tiles_of_queries(), distinct, labels, num_grades, own)


def counts_of_distances(
    distances: np.ndarray, labels: Relevance, *, num_grades: int, own: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Counts the items of each grade at each distance of a given matrix.

    Args:
      distances: Smaller is nearer, [Q, N] finite; equal ones are ties, in their own type.
      labels: Labels of both sides.
      num_grades: See `ranked_counts`.
      own: See `ranked_counts`.

    Yields:
      See `ranked_counts`.
    """
    every = np.arange(distances.shape[1])
    tiles = (distances[start : start + _QUERIES] for start in range(0, len(distances), _QUERIES))
    items = DistinctCodes(every, every, np.ones_like(every))
    yield from _counted(tiles, items, labels, num_grades, own)


def _counted(tiles, distinct, labels, num_grades, own):
    """Yields counts for tiles of distances [q, U] to the distinct codes, using all cores."""
    cells = _cells(distinct, labels)
    at_once = max(1, _COUNTS // (len(distinct.items) * num_grades))

    def count(distances, grades, item):
        of_query = cells, distinct.items
        if item is not None:
            of_query = _without(*of_query, labels.database[item], distinct.inverse[item])
        return _count_levels(*of_query, distances, grades, num_grades=num_grades)

    def rows_of_queries():
        start = 0
        for distances in tiles:
            grades = labels.grades(slice(start, start + len(distances)))
            grades = np.minimum(grades, num_grades - 1)
            items = [None] * len(grades) if own is None else own[start : start + len(grades)]
            for row in range(0, len(grades), at_once):
                rows = slice(row, row + at_once)
                yield distances[rows], grades[rows], items[rows]
            start += len(distances)

    with ThreadPoolExecutor() as pool:
        # Threads sort the next queries while the caller reads the counts of the previous ones.
        counted = (pool.map(count, *rows) for rows in rows_of_queries())
        yield from (_stack(list(rows)) for rows in _one_ahead(counted))


def _without(cells, items, pattern, code):
    """Returns cells and items per code after removing one item of a given pattern and code."""
    first = cells.edges[pattern]
    cell = first + np.searchsorted(cells.code[first : cells.edges[pattern + 1]], code)
    fewer, items = cells.items.copy(), items.copy()
    fewer[cell] -= 1
    items[code] -= 1
    return cells._replace(items=fewer), items


def _one_ahead(items):
    """Yields items with a delay of one, so that the next item is already computed."""
    previous = next(items)
    for item in items:
        yield previous
        previous = item
    yield previous


def _cells(distinct: DistinctCodes, labels: Relevance) -> _Cells:
    num_codes = len(distinct.items)
    # Pattern and code as one number, because `np.unique` sorts numbers much faster than pairs.
    keys = labels.database.astype(np.int64) * num_codes + distinct.inverse
    keys, items = np.unique(keys, return_counts=True)
    pattern, code = np.divmod(keys, num_codes)
    return _Cells(code, items, np.searchsorted(pattern, np.arange(len(labels.patterns) + 1)))


def _power_of_two(most):
    return 1 << (max(1, most).bit_length() - 1)


def _measurer(codec, stored, mesh, shape):
    """Returns a function of queries that computes tiles of distances, of `shape` on each device."""
    num_queries, num_items = shape
    codec = jax.device_put(codec, parallel.replicated(mesh))
    per_call = mesh.size * num_items

    def distances_of(queries):
        # Padded to a fixed shape: another shape would compile anew and round differently.
        queries = np.pad(queries, ((0, num_queries - len(queries)), (0, 0)))
        queries = jax.device_put(queries, parallel.replicated(mesh))
        tiles = []
        for start in range(0, len(stored), per_call):
            codes = stored[start : start + per_call]
            codes = np.pad(codes, ((0, per_call - len(codes)), (0, 0)))
            codes = jax.device_put(codes, parallel.by_rows(mesh))
            tiles.append(_distances(codec, queries, codes))
        return tiles

    return distances_of


@jax.jit
def _distances(codec, queries, codes):
    return codec.distances(queries, codes)


def _refuse_non_finite(codec, distances, start):
    # A code that names no class is infinitely far from every query.
    bad = np.isnan(distances) if codec.metric == "class" else ~np.isfinite(distances)
    rows = np.flatnonzero(bad.any(axis=1))
    if rows.size:
        value = "NaN" if np.isnan(distances[rows[0]]).any() else "infinity"
        raise InputError(
            f"distances of query {start + rows[0]} hold {value}: look for a diverged loss, or "
            "scale embeddings whose squares float32 cannot hold"
        )


def _count_levels(cells, items, distances, grades, *, num_grades):
    """Returns the counts [levels, G] of one query from distances [U] and grades [P].

    All distances are sorted, and the relevant items' distances separately. A binary search of the
    second in the first gives the counts. Values alone sort several times faster than values with
    their positions.
    """
    ranking = np.sort(_repeat(distances, items))
    by_grade = []
    for grade in range(1, num_grades):
        chosen = _ranges(cells.edges, np.flatnonzero(grades == grade))
        values = np.sort(_repeat(distances[cells.code[chosen]], cells.items[chosen]))
        by_grade.append(values)
    relevant = by_grade[0] if num_grades == 2 else np.sort(np.concatenate(by_grade))
    ends = np.flatnonzero(np.append(relevant[1:] != relevant[:-1], len(relevant) > 0))
    levels = relevant[ends]
    # Odd levels are the distances of relevant items, even levels the irrelevant items between.
    counts = np.zeros((2 * len(levels) + 1, num_grades), np.int64)
    if num_grades == 2:
        counts[1::2, 1] = np.diff(ends, prepend=-1)
    else:
        for grade, values in enumerate(by_grade, start=1):
            counts[1::2, grade] = np.diff(np.searchsorted(values, levels, side="right"), prepend=0)
    begins = np.searchsorted(ranking, levels, side="left")
    ends = begins + counts[1::2, 1:].sum(axis=1)
    # A search from the right only where irrelevant items share the distance: few levels, usually.
    tied = np.flatnonzero(ranking[np.minimum(ends, len(ranking) - 1)] == levels)
    ends[tied] = np.searchsorted(ranking, levels[tied], side="right")
    counts[1::2, 0] = ends - begins - counts[1::2, 1:].sum(axis=1)
    counts[::2, 0] = np.append(begins, len(ranking)) - np.append(0, ends)
    return counts


def _ranges(edges, which):
    """Returns the positions edges[i] to edges[i + 1] - 1 of each i in `which`, concatenated."""
    # The usual case of one class a query: a slice copies nothing.
    if len(which) == 1:
        return slice(edges[which[0]], edges[which[0] + 1])
    lengths = edges[which + 1] - edges[which]
    before = np.cumsum(lengths) - lengths
    return np.repeat(edges[which] - before, lengths) + np.arange(lengths.sum())


def _repeat(values, times):
    once = len(times) == 0 or times.min() == times.max() == 1
    return values if once else np.repeat(values, times)


def _stack(rows):
    # Levels without items change no measure, so that rows are padded with zeros.
    levels = max(map(len, rows))
    return np.stack([np.pad(row, ((0, levels - len(row)), (0, 0))) for row in rows])
