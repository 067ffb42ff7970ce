"""Encodes embeddings and measures retrieval, streamed in tiles and exact in ties."""

import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import metrics
from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.evaluate.hamming import check_mesh, hamming_counts
from quantjax.evaluate.ranked import distinct_codes, ranked_counts
from quantjax.evaluate.relevance import relevance
from quantjax.evaluate.results import Results
from quantjax.evaluate.summary import summarize
from quantjax.quantizers import Codec, FloatCodec, packing
from quantjax.run import parallel, processes

_ITEMS = 65_536  # rows that are encoded at once


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
    x, codec = as_embeddings("x", x), processes.on_host(codec)
    # Each process encodes a share: codes are small, and cheaper to send than to compute twice.
    if processes.spans(mesh):
        return processes.join(encode(codec, x[processes.share(len(x))]), len(x))
    # In tiles, because the intermediate arrays of a codec are many times as large as its codes.
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
    task: str = "",
    leave_self_out: bool = False,
) -> Results:
    """Measures the retrieval of queries from a coded database.

    No value depends on the order of the items or on the number of devices. Hamming
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
    # All checks come first: embedding and ranking may take minutes.
    check_distance(codec, distance)
    check_mesh(mesh)
    codes, queries = np.asarray(codes), as_embeddings("queries", queries)
    codec = processes.on_host(codec)
    labels = relevance(query_labels, database_labels)
    _check_codes(codec, codes, queries, labels)
    # Symmetric distance is that of the real codec to quantized queries.
    if distance == "sqd":
        queries = np.asarray(_quantized(codec, queries))
    # Each process ranks its own queries, with its own devices, against the whole database.
    local = None if mesh is None else parallel.local(mesh)

    def count(labels, rows, own, num_grades):
        counts = _counter(codec, queries[rows])
        return counts(codes, labels, num_grades=num_grades, mesh=local, own=own)

    distinct = distinct_codes(codes)
    about = {
        "name": name,
        "bits": codec.bits,
        "num_bytes": codec.num_bytes,
        "distinct_codes": len(distinct.items),
        "code_entropy": distinct.entropy,
        "metric_of_codec": codec.metric,
        "device": _device(mesh),
    }
    return summarize(
        count,
        labels,
        measures,
        order=distinct.inverse,
        shared=processes.spans(mesh),
        leave_self_out=leave_self_out,
        task=task,
        distance=distance,
        began=began,
        about=about,
    )


def _counter(codec, queries):
    """Returns the function of codes and labels that counts items by distance from the queries."""
    # Hamming distances are few and small, so that counting them needs no sort.
    if codec.metric == "hamming":
        return functools.partial(hamming_counts, encode(codec, queries), num_bits=codec.bits)
    return functools.partial(ranked_counts, codec, queries)


@jax.jit
def _encoded(codec, x):
    return codec.encode(x)


@jax.jit
def _quantized(codec, x):
    return codec.decode(codec.encode(jnp.asarray(x)))


def _device(mesh):
    devices = jax.local_devices()[:1] if mesh is None else mesh.devices.ravel()
    return f"{len(devices)} x {devices[0].device_kind}"


def as_embeddings(name: str, x: np.ndarray) -> np.ndarray:
    """Raises ValueError if x is not real embeddings [N, D], or holds NaN or infinity.

    Codes would hide NaN and infinity.

    Args:
      name: The argument's name, for the message.
      x: Must be real numbers [N, D].

    Returns:
      The embeddings as a NumPy array.

    Raises:
      ValueError: naming the given and the required form; for NaN and infinity, the first row.
    """
    x = np.asarray(x)
    # bfloat16 is of kind "V" to NumPy.
    if x.ndim != 2 or not (x.dtype.kind in "fiu" or x.dtype.name == "bfloat16"):
        raise InputError(f"{name} must be real embeddings [N, D], got {x.dtype} {x.shape}")
    check_finite(name, x)
    return x


def _check_codes(codec, codes, queries, labels):
    """Raises ValueError if codes do not fit the codec or the labels, or a side is empty."""
    packing.check_codes(codes, codec.num_bytes)
    if len(codes) == 0 or len(queries) == 0:
        raise InputError(f"nothing to search: {len(queries)} queries, {len(codes)} items")
    labels.check_lengths(len(queries), len(codes))


def check_distance(codec: Codec, distance: str) -> None:
    """Raises ValueError if the codec does not compute the named distance."""
    if codec.metric == "hamming":
        kinds = ("hamming",)
    else:
        kinds = ("float",) if isinstance(codec, FloatCodec) else ("aqd", "sqd")
    if distance not in kinds:
        due = " or ".join(map(repr, kinds))
        raise InputError(f"distance must be {due} for {type(codec).__name__}, got {distance!r}")
