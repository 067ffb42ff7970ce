"""Encodes embeddings and measures retrieval, streamed in tiles and exact in ties."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import metrics
from quantjax.evaluate import checks
from quantjax.evaluate.bootstrap import mean_interval
from quantjax.evaluate.hamming import hamming_counts
from quantjax.evaluate.ranked import ranked_counts
from quantjax.evaluate.relevance import Relevance, items_and_relevant, relevance
from quantjax.evaluate.results import Number, Results
from quantjax.evaluate.stored import distinct_codes
from quantjax.quantizers import Codec
from quantjax.run import parallel, processes

_ITEMS = 65_536  # rows that are encoded at once
_CONTROLS = 256  # queries that see shuffled labels


def encode(codec: Codec, x: np.ndarray, *, mesh: Mesh | None = None) -> np.ndarray:
    """Encodes embeddings to codes, in tiles of 65,536 rows.

    Args:
      codec: Any codec.
      x: Embeddings [N, D], the same in every process.
      mesh: If it spans several processes, they share the work out.

    Returns:
      Codes [N, num_bytes] uint8 on the host.

    Raises:
      ValueError: if x are no real embeddings, or hold NaN or infinity (with the row).
    """
    x, codec = checks.as_embeddings("x", x), processes.on_host(codec)
    if processes.spans(mesh):
        return processes.join(encode(codec, x[processes.share(len(x))]), len(x))
    tiles = [_encoded(codec, x[i : i + _ITEMS]) for i in range(0, len(x), _ITEMS)]
    codes = [np.zeros((0, codec.num_bytes), np.uint8), *(np.asarray(tile) for tile in tiles)]
    return np.concatenate(codes)


def evaluate(
    codec: Codec,
    queries: np.ndarray,
    codes: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    name: str,
    distance: str,
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    mesh: Mesh | None = None,
    tile: int | None = None,
    task: str = "",
    leave_self_out: bool = False,
) -> Results:
    """Measures the retrieval of queries from a coded database.

    No value depends on the order of the items, on tiles or on the number of devices. Hamming
    distances are counted. Real distances are computed in a fixed shape, and once for all items of
    equal code. (Distances of two codes that differ only by rounding in float32 are not a tie.)
    Beside the codes, memory holds one query's distances to all distinct codes, or a few queries'
    distances if the database is small.

    Args:
      codec: Codec that computes the distances.
      queries: Embeddings [Q, D].
      codes: Codes of the database, [N, num_bytes] uint8.
      query_labels: Class ids [Q], or one-hot or multi-hot labels [Q, L].
      database_labels: The same of the items; an item is relevant that shares a label.
      name: Name of the results.
      distance: Distance that ranks: "aqd" real query against code, "sqd" quantizes queries as well,
        "float" for `FloatCodec`, "hamming" for binary codes.
      measures: Measures from `metrics.measures`.
      mesh: From `run.parallel.data_mesh`, to share the work out; the default device when None.
        Where it spans several processes, all call this with the same arguments, each ranks for its
        share of the queries, and all get the results of all.
      tile: Items of a device's tile; chosen when None.
      task: Text that identifies queries and items beyond their labels, such as a split's digest;
        results of different tasks are not compared.
      leave_self_out: For a set that searches itself: query i is item i, and is not in its own
        ranking; the metric's id ends in "|self=out".

    Returns:
      Numbers with bounds, intervals and controls.

    Raises:
      ValueError: if shapes or types do not agree, there is nothing to search, a distance is NaN
        or infinite (with its query), the distance is none of the codec's, or a set that searches
        itself has labels of its own on each side.
    """
    began = time.perf_counter()
    checks.check_distance(codec, distance)
    checks.check_work(mesh, tile)
    codes, queries = np.asarray(codes), checks.as_embeddings("queries", queries)
    codec = processes.on_host(codec)
    labels = relevance(query_labels, database_labels)
    checks.check_codes(codec, codes, queries, labels)
    checks.check_sides(leave_self_out, labels)
    measures = checks.as_measures(measures, codec.metric == "hamming", labels)
    if distance == "sqd":
        queries = np.asarray(_quantized(codec, queries))
    local = None if mesh is None else parallel.local(mesh)

    def count(labels, rows, own, num_grades):
        asked = {"num_grades": num_grades, "mesh": local, "tile": tile, "own": own}
        return _counts(codec, queries[rows], codes, labels, **asked)

    distinct = distinct_codes(codes)
    return summarize(
        count,
        labels,
        measures,
        order=distinct.inverse,
        shared=processes.spans(mesh),
        leave_self_out=leave_self_out,
        task=task,
        name=name,
        distance=distance,
        bits=codec.bits,
        num_bytes=codec.num_bytes,
        distinct_codes=len(distinct.items),
        code_entropy=distinct.entropy,
        metric_of_codec=codec.metric,
        device=_device(mesh),
        began=began,
    )


def summarize(
    count: Callable[..., Iterator[np.ndarray]],
    labels: Relevance,
    measures: Sequence[metrics.Measure],
    *,
    order: np.ndarray,
    shared: bool,
    leave_self_out: bool,
    task: str,
    distance: str,
    began: float,
    **about: Any,
) -> Results:
    """Computes all measures from counts, with bootstrap intervals and controls.

    Args:
      count: `(labels, rows, own, num_grades) -> tiles of counts [q, levels, G]` of those queries;
        own is the item that each of them is, or None.
      labels: Labels of both sides.
      measures: Checked measures.
      order: Key that sorts the items for the control, [N], independent of storage order.
      shared: Whether several processes share the queries out.
      leave_self_out: Whether query i is item i, and not in its own ranking.
      task: Text that identifies queries and items beyond their labels.
      distance: Distance that ranked.
      began: Start time of the evaluation, seconds of `time.perf_counter`.
      **about: Further fields of `Results`.
    """
    num_queries, num_items = len(labels.queries), len(labels.database)
    every = np.arange(num_queries)
    own = every if leave_self_out else None
    num_grades = labels.num_grades if any(measure.graded for measure in measures) else 2

    def measured(labels, rows, orders):
        items = None if own is None else own[rows]
        return _measured(measures, count(labels, rows, items, num_grades), orders)

    shared = shared and num_queries >= jax.process_count()
    mine = processes.share(num_queries) if shared else slice(None)
    of_mine = labels._replace(queries=labels.queries[mine])
    totals, values = measured(of_mine, every[mine], ("worst", "expected", "best"))
    if shared:
        totals, values = jax.tree.map(
            lambda part: processes.join(part, num_queries), (totals, values)
        )
    # The control measures a sample of queries only, because it repeats all the counting.
    rows = np.unique(np.linspace(0, num_queries - 1, _CONTROLS).astype(int))
    control = labels._replace(
        queries=labels.queries[rows], database=_shuffled(labels.database, order)
    )
    _, shuffled = measured(control, rows, ("expected",))
    searched = num_items - 1 if leave_self_out else num_items
    left_out = "|self=out" if leave_self_out else ""
    ids = [f"{each.id(distance=distance, num_items=searched)}{left_out}" for each in measures]
    return Results(
        numbers=tuple(
            _number(*arguments, totals)
            for arguments in zip(ids, measures, values, shuffled, strict=True)
        ),
        per_query={metric: bounds["expected"] for metric, bounds in zip(ids, values, strict=True)},
        distance=distance,
        num_queries=num_queries,
        num_database=num_items,
        zero_queries=int(np.sum(totals[:, 1:].sum(axis=1) == 0)),
        task_digest=labels.digest(task),
        seconds=round(time.perf_counter() - began, 3),
        versions={
            package: importlib.metadata.version(package)
            for package in ("quantjax", "jax", "jaxlib", "numpy")
        },
        **about,
    )


def _counts(
    codec, queries, codes, labels: Relevance, *, num_grades, mesh, tile, own
) -> Iterator[np.ndarray]:
    """Yields counts [q, levels, G]: Hamming distances are counted, real distances are ranked."""
    if codec.metric != "hamming":
        yield from ranked_counts(
            codec, queries, codes, labels, num_grades=num_grades, mesh=mesh, tile=tile, own=own
        )
        return
    yield from hamming_counts(
        encode(codec, queries),
        codes,
        labels,
        num_bits=codec.bits,
        num_grades=num_grades,
        mesh=mesh,
        tile=tile,
        own=own,
    )


def _measured(measures, tiles, orders):
    """Returns database items by grade [Q, G], and {tie order: values [Q]} for each measure."""
    totals, values = [], [{ties: [] for ties in orders} for _ in measures]
    for counts in tiles:
        totals.append(counts.sum(axis=1))
        binary = items_and_relevant(counts)
        for measure, found in zip(measures, values, strict=True):
            for ties in orders:
                found[ties].append(measure.of(counts if measure.graded else binary, ties=ties))
    joined = [{ties: np.concatenate(parts) for ties, parts in each.items()} for each in values]
    return np.concatenate(totals), joined


def _number(metric, measure, bounds, control, totals):
    expected = bounds["expected"]
    items, relevant = totals.sum(axis=1), totals[:, 1:].sum(axis=1)
    chance = measure.chance(totals if measure.graded else np.stack([items, relevant], axis=1))
    low, high = mean_interval(expected)
    return Number(
        metric=metric,
        value=float(expected.mean()),
        # Clipped by the expected values, because rounding could put them out of order.
        worst=float(np.minimum(bounds["worst"], expected).mean()),
        best=float(np.maximum(bounds["best"], expected).mean()),
        low=low,
        high=high,
        chance=float(chance.mean()),
        shuffled=float(control["expected"].mean()),
        zeros=int(np.sum(expected == 0)),
    )


def _shuffled(patterns, order):
    """Shuffles the items' labels, sorted first, so that the order of storage does not matter."""
    order = np.lexsort((patterns, order))
    shuffled = np.empty_like(patterns)
    shuffled[order] = np.random.default_rng(0).permutation(patterns[order])
    return shuffled


@jax.jit
def _encoded(codec, x):
    return codec.encode(x)


@jax.jit
def _quantized(codec, x):
    return codec.decode(codec.encode(jnp.asarray(x)))


def _device(mesh):
    devices = jax.local_devices()[:1] if mesh is None else mesh.devices.ravel()
    return f"{len(devices)} x {devices[0].device_kind}"
