"""Labels as class ids, one-hot or multi-hot, and the similarity of pairs that follows."""

import jax
import jax.numpy as jnp

from quantjax.errors import InputError


def same_class(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Tells of every pair whether its class is the same.

    Args:
      queries: Class ids [Q], integers.
      database: Class ids [N], integers.

    Returns:
      Whether each pair is of one class, [Q, N] bool.

    Raises:
      ValueError: if either is not a vector of integers.
    """
    for name, ids in (("queries", queries), ("database", database)):
        if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise InputError(
                f"{name} must be integer class ids of one axis, got {ids.dtype} {ids.shape}; "
                "share_label compares one-hot and multi-hot labels"
            )
    return jnp.equal(queries[:, None], database)


def multi_hot(class_ids: jax.Array, num_classes: int) -> jax.Array:
    """Marks the classes of every item.

    Args:
      class_ids: One class each, [B], or several, [B, J], padded with -1; integers. An id outside
        0 to L - 1 marks nothing.
      num_classes: L.

    Returns:
      Multi-hot labels [B, L] uint8; one-hot rows where the ids are [B].

    Raises:
      ValueError: if class_ids are not integers or of more than two axes.
    """
    if class_ids.ndim not in (1, 2) or not jnp.issubdtype(class_ids.dtype, jnp.integer):
        raise InputError(
            f"class_ids must be integers of shape [B] or [B, J], got {class_ids.dtype} "
            f"{class_ids.shape}"
        )
    per_item = class_ids.reshape(class_ids.shape[0], -1)
    return jnp.any(per_item[:, :, None] == jnp.arange(num_classes), axis=1).astype(jnp.uint8)


def share_label(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Tells of every pair whether it shares at least one label.

    Args:
      queries: Multi-hot labels [Q, L] (one-hot is the single-label case).
      database: Multi-hot labels [N, L].

    Returns:
      Whether each pair shares a label, [Q, N] bool.

    Raises:
      ValueError: if the label counts L differ.
    """
    return _num_shared(queries, database) > 0.5


def jaccard_similarity(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Divides the labels that a pair shares by those that either has.

    s_ij = |y_i and y_j| / |y_i or y_j|, between 0 and 1; 0 where neither has a label.

    Args:
      queries: Multi-hot labels [Q, L].
      database: Multi-hot labels [N, L].

    Returns:
      Similarities [Q, N] float32.

    Raises:
      ValueError: if the label counts L differ.

    Reference:
      Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017 (the weights c_ij).
    """
    shared = _num_shared(queries, database)
    either = _num_labels(queries)[:, None] + _num_labels(database) - shared
    return shared / jnp.maximum(either, 1)


def cosine_similarity(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns the cosine of the label vectors of every pair.

    s_ij = <y_i, y_j> / (||y_i|| ||y_j||), between 0 and 1; 0 where either has no label.

    Args:
      queries: Multi-hot labels [Q, L].
      database: Multi-hot labels [N, L].

    Returns:
      Similarities [Q, N] float32.

    Raises:
      ValueError: if the label counts L differ.
    """
    shared = _num_shared(queries, database)
    # One root of the product, so that equal labels get 1 and not a rounding of it.
    squares = _num_labels(queries)[:, None] * _num_labels(database)
    return shared / jnp.sqrt(jnp.maximum(squares, 1))


def _num_shared(queries, database):
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise InputError(
            "queries and database must be multi-hot labels [Q, L] and [N, L] of one L, got "
            f"{queries.shape} and {database.shape}"
        )
    # Counts of shared labels are exact in float32 up to 2^24 labels, and a matmul shards by rows.
    return queries.astype(jnp.float32) @ database.astype(jnp.float32).T


def _num_labels(labels):
    return jnp.sum(labels.astype(jnp.float32), axis=1)
