"""Argument checks of `evaluate`, before any computation."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from quantjax import metrics
from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.evaluate.relevance import Relevance
from quantjax.quantizers import Codec, FloatCodec
from quantjax.run import parallel

_MOST_SHARED = 63  # labels that graded metrics tell apart


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


def check_codes(codec: Codec, codes: np.ndarray, queries: np.ndarray, labels: Relevance) -> None:
    """Raises ValueError if codes do not fit the codec or the labels, or a side is empty."""
    if codes.ndim != 2 or codes.shape[1] != codec.num_bytes or codes.dtype != np.uint8:
        raise InputError(
            f"codes must be uint8 of shape [N, {codec.num_bytes}], got {codes.dtype} {codes.shape}"
        )
    if len(codes) == 0 or len(queries) == 0:
        raise InputError(f"nothing to search: {len(queries)} queries, {len(codes)} items")
    for what, rows, patterns in (
        ("query_labels", queries, labels.queries),
        ("database_labels", codes, labels.database),
    ):
        if len(patterns) != len(rows):
            raise InputError(f"{what} must be of {len(rows)} items, got {len(patterns)}")


def check_distance(codec: Codec, distance: str) -> None:
    """Raises ValueError if the codec does not compute the named distance."""
    if codec.metric == "hamming":
        kinds = ("hamming",)
    else:
        kinds = ("float",) if isinstance(codec, FloatCodec) else ("aqd", "sqd")
    if distance not in kinds:
        due = " or ".join(map(repr, kinds))
        raise InputError(f"distance must be {due} for {type(codec).__name__}, got {distance!r}")


def check_sides(leave_self_out: bool, labels: Relevance) -> None:
    """Raises ValueError if `leave_self_out` is set and queries and items are not one set."""
    if not leave_self_out:
        return
    items = labels.patterns[labels.database]
    if labels.queries.shape != items.shape or (labels.queries != items).any():
        raise InputError(
            "leave_self_out is for a set that searches itself, but queries and items differ in "
            f"labels or number, {len(labels.queries)} and {len(items)}; hand in one set twice"
        )
    if len(items) < 2:
        raise InputError("leave_self_out leaves nothing to search in a set of one item")


def as_measures(
    measures: Sequence[metrics.Measure], hamming: bool, labels: Relevance
) -> tuple[metrics.Measure, ...]:
    """Raises ValueError if measures are empty, repeated, or not possible for the codes or labels.

    Args:
      measures: Must be a sequence of `metrics.Measure`.
      hamming: Whether distances are Hamming distances, which measures of balls need.
      labels: May share at most 63 labels for graded measures.

    Returns:
      The measures.

    Raises:
      ValueError: naming the measure.
    """
    measures = (measures,) if isinstance(measures, metrics.Measure) else tuple(measures)
    if not measures:
        raise InputError("there is nothing to measure: measures is empty")
    for measure in measures:
        if not isinstance(measure, metrics.Measure):
            raise InputError(f"measures must be of metrics.measures, got {measure!r}")
        if not measure.ranked and not hamming:
            raise InputError(
                f"{measure.name} is of a set within a Hamming distance; it takes binary codes"
            )
        if measure.graded and labels.num_grades > _MOST_SHARED + 1:
            raise InputError(
                f"{measure.name} tells up to {_MOST_SHARED} shared labels apart, "
                f"these may share {labels.num_grades - 1}"
            )
    ids = [measure.id(distance="aqd", num_items=1) for measure in measures]
    if len(set(ids)) < len(ids):
        raise InputError("measures must differ, got one twice")
    return measures


def check_work(mesh: Mesh | None, tile: int | None) -> None:
    """Raises ValueError if the mesh has other axes, or a tile has no items."""
    if mesh is not None and mesh.axis_names != (parallel.AXIS,):
        raise InputError(
            f"mesh must have the one axis {parallel.AXIS!r} (see parallel.data_mesh), "
            f"got {mesh.axis_names}"
        )
    if tile is not None and not (isinstance(tile, (int, np.integer)) and tile >= 1):
        raise InputError(f"tile must be a number of items of at least 1, or None, got {tile!r}")
