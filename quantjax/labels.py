"""Checks class ids and multi-hot labels, and computes the similarity of pairs from them.

`as_labels` is the only check of labels: this module, `evaluate` and `data` all use it and raise the
same messages. Inside jit it checks shapes and types only.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.arrays import on_explicit_mesh
from quantjax.errors import InputError

CLASS_IDS = "integer class ids [N]"
MULTI_HOT = "multi-hot labels [N, L] of zeros and ones"
EITHER = "class ids [N], or zeros and ones [N, L]"

_LARGEST = 2**63 - 1


def as_labels(name: str, labels: Any, due: str = EITHER, *, min_classes: int = 2) -> Any:
    """Checks labels, class ids or multi-hot rows, and returns them as an array.

    Args:
      name: Name of the labels in the message.
      labels: Class ids [N], integers from 0 to 2^63 - 1; or one-hot or multi-hot rows [N, L] of
        zeros and ones, of any real type.
      due: The allowed kind: CLASS_IDS, MULTI_HOT or EITHER.
      min_classes: The least L; 1 where [N, 1] cannot be class ids.

    Returns:
      The labels: a JAX array unchanged, anything else as a NumPy array.

    Raises:
      ValueError: if the labels are not of the allowed kind. The message is one line and names the
        function that takes such labels, if one exists. The values of a traced array are not
        checked.
    """
    labels = _as_array(name, labels, due)
    integer = jnp.issubdtype(labels.dtype, np.integer)
    real = integer or labels.dtype == bool or jnp.issubdtype(labels.dtype, np.floating)
    is_ids = labels.ndim == 1 and integer and due != MULTI_HOT
    is_table = labels.ndim == 2 and real and due != CLASS_IDS
    if not is_ids and not is_table:
        raise InputError(
            f"{name} must be {due}, got {labels.dtype} {labels.shape}{_advice(name, labels, due)}"
        )
    if is_table and labels.shape[1] < min_classes:
        raise InputError(
            f"{name} of shape {labels.shape} may be class ids or one label: pass {name}[:, 0] as "
            "class ids, or a column of zeros beside it"
        )
    # Values last: under jit only shapes and types are known.
    if labels.size and _values_are_known(labels):
        values = np.asarray(labels)
        _check_ids(name, values) if is_ids else _check_table(name, values, due)
    return labels


@on_explicit_mesh(rows="queries")
def same_class(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns for every pair of a query and a database item whether their class is the same.

    Args:
      queries: Class ids [Q], integers from 0 to 2^31 - 1 (2^63 - 1 with x64 enabled). Inside jit
        the values cannot be checked, and JAX has already truncated larger ids.
      database: Class ids [N], likewise.

    Returns:
      Whether each pair has the same class, [Q, N] bool.

    Raises:
      ValueError: if either is not a vector of integers, or an id is out of range.
    """
    queries, database = (
        _held_by_jax(name, as_labels(name, ids, CLASS_IDS))
        for name, ids in (("queries", queries), ("database", database))
    )
    return jnp.equal(queries[:, None], database)


def multi_hot(class_ids: jax.Array, num_classes: int) -> jax.Array:
    """Converts class ids into multi-hot labels.

    Args:
      class_ids: One class each, [B], or several, [B, J], padded with -1; integers. An id outside
        0 to L - 1 marks nothing.
      num_classes: L.

    Returns:
      Multi-hot labels [B, L] uint8; one-hot rows where the ids are [B].

    Raises:
      ValueError: if class_ids are not integers, of more than two axes, too large for JAX, or seem
        to be multi-hot labels.
    """
    class_ids = _as_array("class_ids", class_ids, "integers of shape [B] or [B, J]")
    if class_ids.ndim not in (1, 2) or not jnp.issubdtype(class_ids.dtype, np.integer):
        raise InputError(
            f"class_ids must be integers of shape [B] or [B, J], got {class_ids.dtype} "
            f"{class_ids.shape}"
        )
    _check_no_table(class_ids)
    per_item = _held_by_jax("class_ids", class_ids)
    per_item = per_item.reshape(per_item.shape[0], -1)
    return jnp.any(per_item[:, :, None] == jnp.arange(num_classes), axis=1).astype(jnp.uint8)


@on_explicit_mesh(rows="queries")
def share_label(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns for every pair of a query and a database item whether they share a label.

    Args:
      queries: Multi-hot labels [Q, L] of zeros and ones (one-hot is the single-label case).
      database: Multi-hot labels [N, L].

    Returns:
      Whether each pair shares a label, [Q, N] bool.

    Raises:
      ValueError: if the label counts L differ or are 1, or, outside jit, if there are other values
        than zeros and ones.
    """
    queries, database = _as_pairs(queries, database)
    return _num_shared(queries, database) > 0.5


@on_explicit_mesh(rows="queries")
def jaccard_similarity(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns the Jaccard similarity of the label sets of every pair.

    s_ij = |y_i and y_j| / |y_i or y_j|, between 0 and 1; 0 where neither has a label.

    Args:
      queries: Multi-hot labels [Q, L].
      database: Multi-hot labels [N, L].

    Returns:
      Similarities [Q, N] float32.

    Raises:
      ValueError: as `share_label`.

    Reference:
      Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017 (the weights c_ij).
    """
    queries, database = _as_pairs(queries, database)
    shared = _num_shared(queries, database)
    either = _num_labels(queries)[:, None] + _num_labels(database) - shared
    return shared / jnp.maximum(either, 1)


@on_explicit_mesh(rows="queries")
def cosine_similarity(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns the cosine of the label vectors of every pair.

    s_ij = <y_i, y_j> / (||y_i|| ||y_j||), between 0 and 1; 0 where either has no label.

    Args:
      queries: Multi-hot labels [Q, L].
      database: Multi-hot labels [N, L].

    Returns:
      Similarities [Q, N] float32.

    Raises:
      ValueError: as `share_label`.
    """
    queries, database = _as_pairs(queries, database)
    shared = _num_shared(queries, database)
    # One root of the product, so that equal labels get 1 and not a rounding of it.
    squares = _num_labels(queries)[:, None] * _num_labels(database)
    return shared / jnp.sqrt(jnp.maximum(squares, 1))


def _num_shared(queries, database):
    # Counts of shared labels are exact in float32 up to 2^24 labels, and a matmul shards by rows.
    return queries.astype(jnp.float32) @ database.astype(jnp.float32).T


def _num_labels(labels):
    return jnp.sum(labels.astype(jnp.float32), axis=1)


def _as_pairs(queries, database):
    """Checks that both sides are multi-hot labels with the same L, and returns them."""
    queries, database = (
        _as_array(name, side, MULTI_HOT)
        for name, side in (("queries", queries), ("database", database))
    )
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        is_ids = 1 in (queries.ndim, database.ndim)
        raise InputError(
            "queries and database must be multi-hot labels [Q, L] and [N, L] of one L, got "
            f"{queries.shape} and {database.shape}"
            + ("; labels.same_class compares class ids" if is_ids else "")
        )
    sides = ("queries", queries), ("database", database)
    return tuple(jnp.asarray(as_labels(name, side, MULTI_HOT)) for name, side in sides)


def _as_array(name, labels, due):
    if isinstance(labels, jax.Array):
        return labels
    try:
        return np.asarray(labels)
    except ValueError:
        raise InputError(f"{name} must be {due}, got rows of several lengths") from None


def _values_are_known(labels):
    # An array that spans several processes has values, but this process does not hold them all.
    return not isinstance(labels, Tracer) and getattr(labels, "is_fully_addressable", True)


def _check_ids(name, ids):
    least, most = ids.min(), ids.max()
    if not 0 <= least <= most <= _LARGEST:
        raise InputError(
            f"{name} must be class ids from 0 to 2^63 - 1, got {least} to {most}"
            + ("; labels.multi_hot takes ids padded with -1" if least == -1 else "")
        )


def _check_no_table(class_ids):
    """Raises ValueError if ids [B, J] are all 0 or 1, that is, multi-hot labels by mistake."""
    several = class_ids.ndim == 2 and class_ids.shape[1] > 2 and len(class_ids) > 0
    if several and _values_are_known(class_ids) and np.isin(np.asarray(class_ids), (0, 1)).all():
        raise InputError(
            f"class_ids must be ids of classes, got zeros and ones in shape {class_ids.shape}, "
            "which are multi-hot labels already"
        )


def _check_table(name, labels, due):
    if labels.dtype == bool:
        return
    if jnp.issubdtype(labels.dtype, np.integer):
        binary = 0 <= labels.min() <= labels.max() <= 1  # without an array of the size of labels
    else:
        binary = ((labels == 0) | (labels == 1)).all()
    if not binary:
        advice = _advice(name, labels, due)
        raise InputError(f"{name} must be {due}, got other values in shape {labels.shape}{advice}")


def _advice(name, labels, due):
    """Returns advice for the message: the function that takes such labels, or a conversion."""
    if labels.dtype.kind in "OSTU":
        return f"; number the classes with np.unique({name}, return_inverse=True)"
    integer = jnp.issubdtype(labels.dtype, np.integer)
    if labels.ndim == 1:
        return "; labels.same_class compares class ids" if integer else ""
    if due == CLASS_IDS and labels.ndim == 2:
        if labels.shape[1] == 1:
            return f"; pass {name}[:, 0]"
        return "; labels.share_label compares one-hot and multi-hot labels"
    if not _values_are_known(labels) or labels.ndim != 2:
        return ""
    # Labels of -1 and 1 are common in hashing papers.
    if np.isin(np.asarray(labels, np.float32), (-1, 1)).all():
        return f"; pass {name} > 0"
    return "; labels.multi_hot makes zeros and ones of class ids" if integer else ""


def _held_by_jax(name, ids):
    """Returns ids in JAX's default integer type; raises ValueError if an id does not fit it."""
    type_of_jax = jax.dtypes.canonicalize_dtype(int)
    most = jnp.iinfo(type_of_jax).max
    if ids.size and not np.can_cast(ids.dtype, type_of_jax) and _values_are_known(ids):
        least, largest = np.asarray(ids).min(), np.asarray(ids).max()
        if not -most - 1 <= least <= largest <= most:
            raise InputError(
                f"{name} must be class ids that JAX holds, up to {most}, got {least} to {largest}; "
                f"renumber them with np.unique({name}, return_inverse=True); evaluate.relevance "
                "takes larger ones"
            )
    # Unsigned ids too, for JAX compares uint64 with int64 in floats.
    return jnp.asarray(ids).astype(int)
