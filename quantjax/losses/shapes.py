"""Argument checks of the losses: wrong shapes and soft labels raise ValueError."""

import jax
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError


def check_pairs(queries: jax.Array, database: jax.Array, similar: jax.Array) -> None:
    """Raises ValueError if the shapes of pair arguments disagree or pair labels are not binary.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D].
      similar: Label of every pair, [Q, N].

    Raises:
      ValueError: naming the argument, its shape and the shape that was due; or as `check_binary`.
    """
    if queries.ndim != 2:
        raise InputError(f"queries must have shape [Q, D], got {queries.shape}")
    if database.ndim != 2 or database.shape[1] != queries.shape[1]:
        raise InputError(f"database must have shape (N, {queries.shape[1]}), got {database.shape}")
    due = (queries.shape[0], database.shape[0])
    if similar.shape != due:
        raise InputError(f"similar must have shape {due}, got {similar.shape}")
    check_binary("similar", similar)


def check_binary(name: str, marks: jax.Array) -> None:
    """Raises ValueError if pair labels are neither bool, nor 0 and 1, nor -1 and +1.

    A loss treats every value above 0 as True: a Jaccard similarity of 0.1 would count as similar.

    Args:
      name: Name of `marks` in the error message.
      marks: Whether each pair is similar, of any shape and type.

    Raises:
      ValueError: naming the range that came; the values of a traced array are not seen.
    """
    if not any(_holds_only(marks, (low, 1)) for low in (0, -1)):
        raise InputError(
            f"{name} must be binary, 0 and 1 or -1 and +1, got {_range_of(marks)}; no loss takes "
            "soft targets: labels.share_label says which pairs share a label, and pair_weights "
            "takes labels.jaccard_similarity"
        )


def check_multi_hot(name: str, labels: jax.Array) -> None:
    """Raises ValueError if labels are not zeros and ones.

    Args:
      name: Name of `labels` in the error message.
      labels: Multi-hot labels [B, L], of any type.

    Raises:
      ValueError: naming the range that came; the values of a traced array are not seen.
    """
    if not _holds_only(labels, (0, 1)):
        raise InputError(
            f"{name} must be multi-hot, of zeros and ones, got {_range_of(labels)}; "
            "labels.multi_hot makes them of class ids"
        )


def _holds_only(x, values):
    """Returns whether a concrete array holds only the two given values; True for a traced array."""
    # An array that spans several processes has values, but this process does not hold them all.
    values_are_known = not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)
    if not values_are_known or x.dtype == bool:
        return True
    x = np.asarray(x)
    return bool(((x == values[0]) | (x == values[1])).all())


def _range_of(x):
    x = np.asarray(x)
    return f"{x.dtype} from {x.min()} to {x.max()}"


def check_same(name: str, x: jax.Array, reference_name: str, reference: jax.Array) -> None:
    """Raises ValueError if an array does not have the shape [B, D] of a reference array.

    Args:
      name: Name of `x` in the error message.
      x: The array to check.
      reference_name: Name of `reference` in the error message.
      reference: The array [B, D] whose shape is required.

    Raises:
      ValueError: naming both arrays and their shapes.
    """
    if reference.ndim != 2:
        raise InputError(f"{reference_name} must have shape [B, D], got {reference.shape}")
    if x.shape != reference.shape:
        raise InputError(
            f"{name} must have the shape of {reference_name}, {reference.shape}, got {x.shape}"
        )


def check_rows(name: str, x: jax.Array) -> None:
    """Raises ValueError if an array is not [B, D].

    Args:
      name: Name of `x` in the error message.
      x: The array to check.

    Raises:
      ValueError: naming the array and its shape.
    """
    if x.ndim != 2:
        raise InputError(f"{name} must have shape [B, D], got {x.shape}")


def check_soft(soft: jax.Array) -> None:
    """Raises ValueError if soft assignments are not [M, N, K].

    Args:
      soft: Assignment weights.

    Raises:
      ValueError: naming the shape.
    """
    if soft.ndim != 3:
        raise InputError(f"soft must have shape [M, N, K], got {soft.shape}")


def check_triplets(anchors: jax.Array, positives: jax.Array, negatives: jax.Array) -> None:
    """Raises ValueError if anchors, positives and negatives do not share one shape [T, D].

    Args:
      anchors: Embeddings [T, D].
      positives: Embeddings [T, D].
      negatives: Embeddings [T, D].

    Raises:
      ValueError: naming the array, its shape and the shape that was due.
    """
    check_same("positives", positives, "anchors", anchors)
    check_same("negatives", negatives, "anchors", anchors)
