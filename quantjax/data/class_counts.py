"""Counts over the labels of a source, of either kind: multi-hot [N, L], or class ids [N]."""

import numpy as np

from quantjax.errors import InputError


def num_labels(labels: np.ndarray) -> np.ndarray:
    """Counts the labels of each row.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].

    Returns:
      Counts [N] int64; 1 for class ids.
    """
    if labels.ndim == 1:
        return np.ones(len(labels), np.int64)
    return labels.sum(axis=1, dtype=np.int64)


def num_labels_among(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Counts the labels of each row that are of chosen classes.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].
      chosen: Which classes, [L] bool.

    Returns:
      Counts [N] int64.

    Raises:
      ValueError: if a class id has no class.
    """
    if labels.ndim == 1:
        return chosen[_checked(labels, len(chosen))].astype(np.int64)
    return labels[:, chosen].sum(axis=1, dtype=np.int64)


def rows_per_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the rows that have each class.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].
      num_classes: L.

    Returns:
      Counts [L] int64.

    Raises:
      ValueError: if a class id has no class.
    """
    if labels.ndim == 1:
        return np.bincount(_checked(labels, num_classes), minlength=num_classes)
    return labels.sum(axis=0, dtype=np.int64)


def class_ids(labels: np.ndarray) -> np.ndarray:
    """Returns the class of each row.

    Args:
      labels: One-hot labels [N, L], or class ids [N].

    Returns:
      Class ids [N].

    Raises:
      ValueError: naming the first row that has no label, or several.
    """
    counts = num_labels(labels)
    if (counts != 1).any():
        row = int(np.flatnonzero(counts != 1)[0])
        raise InputError(f"rows must have one label each, got {counts[row]} in row {row}")
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def check_labels(labels: np.ndarray) -> None:
    """Refuses training labels that a loss of pairs or triplets can learn nothing from.

    A jitted step cannot look into its labels, so an experiment calls this on its training rows.

    Args:
      labels: Multi-hot labels of the training rows, [N, L], or class ids [N].

    Raises:
      ValueError: naming the first row without a class; or if all rows share one class, so that
        there are no negatives.
    """
    if labels.ndim not in (1, 2):
        raise InputError(f"labels must be multi-hot [N, L] or class ids [N], got {labels.shape}")
    empty = np.flatnonzero(num_labels(labels) == 0)
    if len(empty):
        raise InputError(
            f"training row {empty[0]} has no class ({len(empty)} of {len(labels)} rows have none); "
            "leave such rows out of the split"
        )
    shared = np.all(labels == labels[:1]) if labels.ndim == 1 else np.any(np.all(labels, axis=0))
    if shared:
        raise InputError(
            f"all {len(labels)} training rows share a class, so there are no negatives; train on "
            "two classes or more"
        )


def _checked(ids: np.ndarray, num_classes: int) -> np.ndarray:
    if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
        raise InputError(
            f"class ids must lie in 0 to {num_classes - 1}, got {ids.min()} to {ids.max()}"
        )
    return ids
