"""Shape checks shared by the losses: one clear line instead of a broadcast."""

import jax

from quantjax.errors import InputError


def check_pairs(queries: jax.Array, database: jax.Array, similar: jax.Array) -> None:
    """Refuses pair arguments whose shapes do not agree.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D].
      similar: Label of every pair, [Q, N].

    Raises:
      ValueError: naming the argument, its shape and the shape that was due.
    """
    if queries.ndim != 2:
        raise InputError(f"queries must have shape [Q, D], got {queries.shape}")
    if database.ndim != 2 or database.shape[1] != queries.shape[1]:
        raise InputError(f"database must have shape (N, {queries.shape[1]}), got {database.shape}")
    due = (queries.shape[0], database.shape[0])
    if similar.shape != due:
        raise InputError(f"similar must have shape {due}, got {similar.shape}")


def check_same(name: str, x: jax.Array, reference_name: str, reference: jax.Array) -> None:
    """Refuses an array [B, D] whose shape differs from its partner's.

    Args:
      name: What `x` is called in the message.
      x: The array to check.
      reference_name: What `reference` is called in the message.
      reference: The array [B, D] that says what is due.

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
    """Refuses an array that is not [B, D].

    Args:
      name: What `x` is called in the message.
      x: The array to check.

    Raises:
      ValueError: naming the array and its shape.
    """
    if x.ndim != 2:
        raise InputError(f"{name} must have shape [B, D], got {x.shape}")


def check_soft(soft: jax.Array) -> None:
    """Refuses soft assignments that are not [M, N, K].

    Args:
      soft: Assignment weights.

    Raises:
      ValueError: naming the shape.
    """
    if soft.ndim != 3:
        raise InputError(f"soft must have shape [M, N, K], got {soft.shape}")


def check_triplets(anchors: jax.Array, positives: jax.Array, negatives: jax.Array) -> None:
    """Refuses triplets whose three shapes are not one [T, D].

    Args:
      anchors: Embeddings [T, D].
      positives: Embeddings [T, D].
      negatives: Embeddings [T, D].

    Raises:
      ValueError: naming the array, its shape and the shape that was due.
    """
    check_same("positives", positives, "anchors", anchors)
    check_same("negatives", negatives, "anchors", anchors)
