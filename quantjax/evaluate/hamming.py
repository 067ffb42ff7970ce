"""Counts items at each Hamming distance, without a sort; counts of database parts add up.

Every pair takes one population count and one increment. Counts are integers, so that results do
not depend on the order of storage, on tiles or on the number of devices.
"""

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from quantjax import metrics
from quantjax.errors import InputError
from quantjax.evaluate.relevance import Relevance, items_and_relevant, relevance
from quantjax.quantizers import packing
from quantjax.run import parallel

_QUERIES = 64  # whose counts are one call
_ITEMS = 1 << 15  # of a device's tile, the most: their distances to a query stay in cache
# Increments of one histogram wait for each other; several histograms overlap and use more cores.
_HISTOGRAMS = 4
_BY_ITEM = PartitionSpec(None, None, None, parallel.AXIS)


def hamming_average_precision(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    num_bits: int | None = None,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Returns the average precision of packed binary codes, exact in ties, without sorting.

    Args:
      query_codes: Packed codes [Q, bytes] uint8.
      database_codes: Packed codes [N, bytes] uint8.
      query_labels: Class ids [Q], or one-hot or multi-hot labels [Q, L].
      database_labels: The same of the items; an item that shares a label is relevant.
      num_bits: Length of a code, 8 bytes' worth by default; bits above it must be 0.
      top_k: Cut of the ranking; None ranks the whole database.
      denominator: "hits", "capped" or "all", see `metrics.average_precision`.
      ties: "expected", "best" or "worst".
      mesh: From `run.parallel.data_mesh`, to share the database out; the default device when None.

    Returns:
      Average precision of every query, [Q] float64; 0 without a relevant item.

    Raises:
      ValueError: if shapes or types do not agree, the database is empty, or an option is unknown.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018 (the closed form on counts).
    """
    measured = functools.partial(
        metrics.average_precision_from_counts, top_k=top_k, denominator=denominator, ties=ties
    )
    measured(np.zeros((0, 1, 2), np.int64))  # checks the options
    labels = relevance(query_labels, database_labels)
    tiles = hamming_counts(
        query_codes, database_codes, labels, num_bits=num_bits, num_grades=2, mesh=mesh
    )
    return np.concatenate([measured(items_and_relevant(tile)) for tile in tiles])


def hamming_counts(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    labels: Relevance,
    *,
    num_bits: int | None = None,
    num_grades: int | None = None,
    mesh: Mesh | None = None,
    own: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Counts the items of each grade at each Hamming distance.

    Args:
      query_codes: Packed codes [Q, bytes] uint8.
      database_codes: Packed codes [N, bytes] uint8.
      labels: Labels of both sides.
      num_bits: Length of a code; 8 bytes' worth when None.
      num_grades: G; higher grades count as G - 1. All that occur when None.
      mesh: The devices to share the database out to.
      own: The item that each query itself is, [Q]; it is not counted. None where queries are no
        items.

    Yields:
      Counts [q, num_bits + 1, G] int64 of the next queries, until all Q have come.

    Raises:
      ValueError: if shapes, types or lengths do not agree, or a side is empty.
    """
    # Checked on the host: a wrong length would count wrong distances without an error.
    query_codes, database_codes = np.asarray(query_codes), np.asarray(database_codes)
    num_bits = _check(query_codes, database_codes, labels, num_bits)
    num_grades = labels.num_grades if num_grades is None else num_grades
    check_mesh(mesh)
    mesh = parallel.data_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    words, patterns = _in_tiles(database_codes, labels, mesh.size)
    words, patterns = jax.device_put((words, patterns), NamedSharding(mesh, _BY_ITEM))
    asked = _as_words(query_codes)
    compiled = _counter(mesh, num_bits + 1, num_grades)
    # A program on a CPU device keeps a single core busy, so several threads start programs. But
    # programs that gather from several devices must start in one order, hence on one thread.
    workers = 1 if mesh.size > 1 else os.cpu_count() or 1
    num_queries = min(_QUERIES, -(-len(asked) // workers))

    def count(start):
        rows = slice(start, start + num_queries)
        # Padded items have a pattern of their own, the last, and a grade that is dropped.
        grades = np.minimum(labels.grades(rows), num_grades - 1)
        grades = np.pad(grades, ((0, 0), (0, 1)), constant_values=num_grades)
        short = ((0, num_queries - len(grades)), (0, 0))
        counts = compiled(np.pad(asked[rows], short), np.pad(grades, short), words, patterns)
        counts = np.asarray(counts)[: len(query_codes[rows])].swapaxes(1, 2).astype(np.int64)
        # Taken out of the counts, and not of the database: every query searches the same tiles.
        if own is not None:
            items, queries = own[rows], np.arange(len(counts))
            differing = query_codes[rows] ^ database_codes[items]
            distances = np.bitwise_count(differing).sum(axis=1)
            counts[queries, distances, grades[queries, labels.database[items]]] -= 1
        return counts

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(count, range(0, len(asked), num_queries))


@functools.lru_cache(maxsize=32)
def _counter(mesh, num_levels, num_grades):
    """Returns a compiled function: queries [q, W], grades [q, P] and `_in_tiles` -> counts."""
    size = num_levels * (num_grades + 1)

    def histogram(query, offsets, words, patterns):
        # Grade and distance form one histogram index: grade * levels + distance.
        places = offsets.at[patterns[0]].get(mode="promise_in_bounds")
        for word, column in zip(query, words, strict=True):
            places = places + jax.lax.population_count(word ^ column).astype(jnp.int32)
        return jnp.zeros(size, jnp.int32).at[places].add(1, mode="promise_in_bounds")

    def of_device(queries, offsets, words, patterns):
        def add(counts, tile):
            def of_query(row):
                return sum(histogram(*row, *part) for part in zip(*tile, strict=True))

            return counts + jax.lax.map(of_query, (queries, offsets)), None

        start = jnp.zeros((len(queries), size), jnp.int32)
        # scan needs a carry of one type: zeros are equal on all devices, but the sums differ.
        start = jax.lax.pcast(start, parallel.AXIS, to="varying")
        return jax.lax.psum(jax.lax.scan(add, start, (words, patterns))[0], parallel.AXIS)

    sharded = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), _BY_ITEM, _BY_ITEM),
        out_specs=PartitionSpec(),
    )

    def counts(queries, grades, words, patterns):
        found = sharded(queries, grades * num_levels, words, patterns)
        return found.reshape(-1, num_grades + 1, num_levels)[:, :num_grades]

    return jax.jit(counts)


def _in_tiles(codes, labels, num_devices):
    """Cuts the database into T tiles of S parts: words [T, S, W, n], patterns [T, S, 1, n].

    Words are uint32, patterns int32.
    """
    # Tiles of equal size, so that a single program fits all and padding stays small.
    unit = num_devices * _HISTOGRAMS
    count = -(-len(codes) // (num_devices * _ITEMS))
    per_tile = -(-len(codes) // (count * unit)) * unit
    padding = count * per_tile - len(codes)
    words = np.pad(_as_words(codes), ((0, padding), (0, 0)))
    patterns = np.pad(labels.database, (0, padding), constant_values=len(labels.patterns))
    shape = (count, _HISTOGRAMS, per_tile // _HISTOGRAMS, -1)
    words = np.ascontiguousarray(words.reshape(shape).swapaxes(2, 3))
    return words, patterns.reshape(shape).swapaxes(2, 3)


def _as_words(codes):
    # Words of four bytes: one population count in place of four.
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    return np.ascontiguousarray(padded).view(np.uint32)


def _check(query_codes, database_codes, labels, num_bits):
    for name, codes in (("query_codes", query_codes), ("database_codes", database_codes)):
        if codes.ndim != 2 or codes.dtype != np.uint8 or codes.size == 0:
            raise InputError(
                f"{name} must be packed codes [N, bytes] uint8 of one item and byte at least, "
                f"got {codes.dtype} {codes.shape}"
            )
    num_bits = 8 * query_codes.shape[1] if num_bits is None else num_bits
    if not isinstance(num_bits, (int, np.integer)) or num_bits < 1:
        raise InputError(f"num_bits must be an integer of at least 1, got {num_bits!r}")
    for codes in (query_codes, database_codes):
        packing.check_codes(codes, -(-num_bits // 8))
    # Bits above the code would count as differing.
    if num_bits % 8 and max(query_codes[:, -1].max(), database_codes[:, -1].max()) >> num_bits % 8:
        raise InputError(f"codes of {num_bits} bits must have zeros above them, got ones")
    labels.check_lengths(len(query_codes), len(database_codes))
    return num_bits


def check_mesh(mesh: Mesh | None) -> None:
    """Raises ValueError if the mesh has other axes."""
    if mesh is not None and mesh.axis_names != (parallel.AXIS,):
        raise InputError(
            f"mesh must have the one axis {parallel.AXIS!r} (see parallel.data_mesh), "
            f"got {mesh.axis_names}"
        )
