"""Measures embeddings, codes or distances of other software: packed bits, FAISS codes, a matrix."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import metrics
from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import as_embeddings, encode, evaluate
from quantjax.evaluate.ranked import counts_of_distances
from quantjax.evaluate.relevance import relevance
from quantjax.evaluate.results import Results
from quantjax.evaluate.summary import summarize
from quantjax.quantizers import BinaryCodec, Codec, FloatCodec, binary
from quantjax.run import processes


def evaluate_codes(
    query_codes: np.ndarray,
    database_codes: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    codec: Codec | None = None,
    num_bits: int | None = None,
    name: str = "codes",
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    leave_self_out: bool = False,
    mesh: Mesh | None = None,
    task: str = "",
) -> Results:
    """Measures retrieval by given codes, ranked by Hamming or by a codec's symmetric distances.

    Args:
      query_codes: Binary codes [Q, ...], either packed into bytes [Q, ceil(bits / 8)] uint8, lowest
        bit first, as FAISS and `quantizers.binary.pack` pack; or one column a bit, [Q, bits]: bool
        or 0 and 1, or signs, where a value of 0 or more is a one. With a codec, its codes.
      database_codes: The same of the items.
      query_labels: Class ids [Q], or one-hot or multi-hot labels [Q, L].
      database_labels: The same of the items; an item that shares a label is relevant.
      codec: Decodes the codes of both sides, such as `ProductCodec(codebooks)` for codes of a FAISS
        product quantizer. None for binary codes.
      num_bits: Length of a binary code. Needed where uint8 columns hold nothing but 0 and 1, which
        may be bits or bytes.
      name: Name of the results.
      measures: Measures from `metrics.measures`.
      leave_self_out: For a set that searches itself, see `evaluate`.
      mesh: Devices from `run.parallel.data_mesh`; the default device when None.
      task: Text that identifies queries and items beyond their labels, see `evaluate`.

    Returns:
      The results, as `evaluate` gives them.

    Raises:
      ValueError: if shapes or types do not agree, or bits and bytes cannot be distinguished.
    """
    sides = {"query_codes": np.asarray(query_codes), "database_codes": np.asarray(database_codes)}
    if codec is None:
        num_bits = _num_bits(sides, num_bits)
        codec = BinaryCodec(num_bits)
        sides = {side: _packed(side, codes, num_bits) for side, codes in sides.items()}
    elif num_bits not in (None, codec.bits):
        raise InputError(f"num_bits must be {codec.bits}, the codec's, or None, got {num_bits}")
    # `evaluate` takes real queries, and quantizes them itself.
    queries = np.asarray(_decoded(processes.on_host(codec), sides["query_codes"]))
    return evaluate(
        codec,
        queries,
        sides["database_codes"],
        query_labels,
        database_labels,
        name=name,
        distance="hamming" if codec.metric == "hamming" else "sqd",
        measures=measures,
        mesh=mesh,
        task=task,
        leave_self_out=leave_self_out,
    )


def evaluate_embeddings(
    queries: np.ndarray,
    database: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    metric: str = "cosine",
    name: str = "embeddings",
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    leave_self_out: bool = False,
    mesh: Mesh | None = None,
    task: str = "",
) -> Results:
    """Measures retrieval by real embeddings, without codes.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D].
      query_labels: Class ids [Q], or one-hot or multi-hot labels [Q, L].
      database_labels: The same of the items; an item that shares a label is relevant.
      metric: "cosine", "l2" or "ip", see `quantizers.FloatCodec`.
      name: Name of the results.
      measures: Measures from `metrics.measures`.
      leave_self_out: For a set that searches itself, see `evaluate`.
      mesh: Devices from `run.parallel.data_mesh`; the default device when None.
      task: Text that identifies queries and items beyond their labels, see `evaluate`.

    Returns:
      The results, as `evaluate` gives them.

    Raises:
      ValueError: if shapes do not agree, or a number is NaN or infinite.
    """
    database = as_embeddings("database", database)
    # No quantization is a codec too, so that one function measures both.
    codec = FloatCodec(database.shape[1], metric=metric)
    return evaluate(
        codec,
        queries,
        encode(codec, database, mesh=mesh),
        query_labels,
        database_labels,
        name=name,
        distance="float",
        measures=measures,
        mesh=mesh,
        task=task,
        leave_self_out=leave_self_out,
    )


def evaluate_distances(
    distances: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    name: str = "distances",
    distance: str = "own",
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    leave_self_out: bool = False,
    task: str = "",
) -> Results:
    """Measures retrieval by a given matrix of distances.

    Distances rank in their own type: float64 is not rounded, and equal values are ties.

    Args:
      distances: Smaller is nearer, real numbers [Q, N]; negate similarities.
      query_labels: Class ids [Q], or one-hot or multi-hot labels [Q, L].
      database_labels: The same of the items; an item that shares a label is relevant.
      name: Name of the results.
      distance: Name of the distance in the metric's id: "own", or "aqd", "sqd", "float" or
        "hamming" to compare with a codec's results.
      measures: Measures from `metrics.measures`, of ranks.
      leave_self_out: For a set that searches itself, see `evaluate`.
      task: Text that identifies queries and items beyond their labels, see `evaluate`.

    Returns:
      The results; bits, bytes and numbers of codes are None, as no codes are known.

    Raises:
      ValueError: if shapes do not agree, or a distance is NaN or infinite (with its query).
    """
    began = time.perf_counter()
    # Not as float32: a matrix of float64 may tell items apart that float32 would tie.
    distances = np.asarray(distances)
    if distances.ndim != 2 or distances.dtype.kind not in "fiu" or distances.size == 0:
        raise InputError(
            "distances must be real numbers [Q, N] of one query and item at least, got "
            f"{distances.dtype} {distances.shape}"
        )
    check_finite("distances", distances)
    labels = relevance(query_labels, database_labels)
    due = (len(labels.queries), len(labels.database))
    if distances.shape != due:
        raise InputError(
            f"distances must be of {due[0]} queries and {due[1]} items, as the labels are, "
            f"got {distances.shape}"
        )

    def count(labels, rows, own, num_grades):
        return counts_of_distances(distances[rows], labels, num_grades=num_grades, own=own)

    unknown = ("bits", "num_bytes", "distinct_codes", "code_entropy", "metric_of_codec")
    return summarize(
        count,
        labels,
        measures,
        order=np.zeros(due[1], np.int64),
        shared=False,
        leave_self_out=leave_self_out,
        task=task,
        distance=distance,
        began=began,
        about={**dict.fromkeys(unknown), "name": name, "device": "none"},
    )


def _num_bits(sides, num_bits):
    """Returns the code length in bits, after deciding whether columns are bits or packed bytes."""
    for name, codes in sides.items():
        if codes.ndim != 2 or codes.size == 0 or codes.dtype.kind not in "fiub":
            raise InputError(
                f"{name} must be bits, signs or packed bytes [N, columns], got {codes.dtype} "
                f"{codes.shape}"
            )
    widths = {codes.shape[1] for codes in sides.values()}
    if len(widths) > 1:
        shapes = " and ".join(str(codes.shape) for codes in sides.values())
        raise InputError(f"codes of both sides must have as many columns, got {shapes}")
    (width,) = widths
    # The caller knows, and is only checked.
    if num_bits is not None:
        if width not in (num_bits, -(-num_bits // 8)):
            raise InputError(
                f"codes of {num_bits} bits have {num_bits} columns, or {-(-num_bits // 8)} bytes, "
                f"got {width} columns"
            )
        return num_bits
    # Only uint8 can be packed bytes; other types hold a bit per column.
    if any(codes.dtype != np.uint8 for codes in sides.values()):
        return width
    if all(codes.max() <= 1 for codes in sides.values()):
        raise InputError(
            f"uint8 codes of nothing but 0 and 1 may be {width} bits or {8 * width} packed bits; "
            "pass num_bits"
        )
    return 8 * width


def _packed(name, codes, num_bits):
    """Returns binary codes as packed bytes [N, ceil(num_bits / 8)]."""
    if codes.shape[1] != num_bits or (num_bits == 1 and codes.dtype == np.uint8):
        if codes.dtype != np.uint8:
            raise InputError(f"{name} must be uint8 where they are packed, got {codes.dtype}")
        return codes
    # Zeros and ones are bits. Of signs, 0 or more is a one.
    if codes.dtype != bool and ((codes == 0) | (codes == 1)).all():
        codes = codes.astype(bool)
    check_finite(name, codes)
    return np.asarray(binary.pack(jnp.asarray(codes)))


@jax.jit
def _decoded(codec, codes):
    return codec.decode(codes)
