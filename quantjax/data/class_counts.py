"""Counts labels per row and rows per class, for multi-hot labels [N, L] or class ids [N]."""

import warnings
from collections.abc import Callable

import numpy as np

from quantjax.data.sources import cut
from quantjax.errors import InputError
from quantjax.labels import CLASS_IDS, EITHER, as_labels

_WIDE = 1024  # columns of a one-hot table from which on class ids with wide gaps are renumbered


def num_labels(labels: np.ndarray) -> np.ndarray:
    """Counts the labels of each row.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].

    Returns:
      Counts [N] int64; 1 for class ids.

    Raises:
      ValueError: if labels are neither.
    """
    labels = _of_source(labels)
    if labels.ndim == 1:
        return np.ones(len(labels), np.int64)
    return labels.sum(axis=1, dtype=np.int64)


def num_labels_among(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Counts each row's labels that belong to the chosen classes.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].
      chosen: Mask of the chosen classes, [L] bool.

    Returns:
      Counts [N] int64.

    Raises:
      ValueError: if a class id has no class, or labels are neither.
    """
    if labels.ndim == 1:
        return chosen[_checked(labels, len(chosen))].astype(np.int64)
    return _of_source(labels)[:, chosen].sum(axis=1, dtype=np.int64)


def rows_per_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the rows of each class.

    Args:
      labels: Multi-hot labels [N, L], or class ids [N].
      num_classes: L.

    Returns:
      Counts [L] int64.

    Raises:
      ValueError: if a class id has no class, or labels are neither.
    """
    if labels.ndim == 1:
        return np.bincount(_checked(labels, num_classes), minlength=num_classes)
    return _of_source(labels).sum(axis=0, dtype=np.int64)


def renumbered(class_ids: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Renumbers class ids that have wide gaps; returns class ids and class names.

    If most columns of a one-hot table of more than 1,024 columns would be empty, as an id of
    999,999 causes, the ids are renumbered in order, with a warning. Otherwise they stay unchanged.

    Args:
      class_ids: [N], 0 or more.

    Returns:
      Class ids [N] int64 below L, and the L names: the given ids as text.
    """
    found, positions = np.unique(class_ids, return_inverse=True)
    width = int(found[-1]) + 1
    if width <= _WIDE or width <= 2 * len(found):
        return class_ids, tuple(map(str, range(width)))
    warnings.warn(
        f"class ids reach {found[-1]}, but only {len(found)} of them occur: they are renumbered 0 "
        f"to {len(found) - 1}; the names of the classes are the ids that came",
        stacklevel=4,
    )
    return positions.reshape(-1).astype(np.int64), tuple(map(str, found))


def class_ids(labels: np.ndarray, *, name_of: Callable[[int], object] = str) -> np.ndarray:
    """Returns the class id of each row, and raises ValueError if a row has not exactly one label.

    Args:
      labels: One-hot labels [N, L], or class ids [N].
      name_of: Row -> its name, for the message.

    Returns:
      Class ids [N].

    Raises:
      ValueError: naming the first row that has no label, or several; or if labels are neither.
    """
    labels = _of_source(labels)
    counts = num_labels(labels)
    if (counts != 1).any():
        row = int(np.flatnonzero(counts != 1)[0])
        raise InputError(f"rows must have one label each, got {counts[row]} in row {name_of(row)}")
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def check_labels(labels: np.ndarray, *, name_of: Callable[[int], object] = str) -> None:
    """Raises ValueError if training labels give no positive or no negative pairs.

    A jitted step cannot read its labels, so an experiment calls `check_training_labels` before it
    trains, which calls this function.

    Args:
      labels: Multi-hot labels of the training rows, [N, L], or class ids [N].
      name_of: Training row -> its name, for the message.

    Raises:
      ValueError: if rows have no class (the first are named); if all rows share one class, so that
        there are no negatives; if no two rows share a class, so that there are no positives; or if
        labels are neither class ids nor zeros and ones.
    """
    labels = _of_source(labels)
    empty = np.flatnonzero(num_labels(labels) == 0)
    if len(empty):
        rows = ", ".join(cut([str(name_of(int(row))) for row in empty]))
        raise InputError(
            f"{len(empty)} of {len(labels)} training rows have no class: {rows}; give them one, or "
            "leave them out of the split"
        )
    # Class ids have one class each, so that all rows share it only if all ids are equal.
    shared = np.all(labels == labels[:1]) if labels.ndim == 1 else np.any(np.all(labels, axis=0))
    if shared:
        raise InputError(
            f"all {len(labels)} training rows share a class, so there are no negatives; train on "
            "two classes or more"
        )
    # A class with two rows gives a positive pair.
    of_class = np.unique(labels, return_counts=True)[1] if labels.ndim == 1 else labels.sum(axis=0)
    if of_class.max() < 2:
        raise InputError(
            f"no two of the {len(labels)} training rows share a class, so there are no positives; "
            "train on two images or more of a class"
        )


def _of_source(labels):
    # A source's column of zeros and ones is one class, for its class ids have one axis; one without
    # labels has no column.
    return as_labels("labels", labels, EITHER, min_classes=0)


def _checked(ids: np.ndarray, num_classes: int) -> np.ndarray:
    if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
        raise InputError(
            f"class ids must lie in 0 to {num_classes - 1}, got {ids.min()} to {ids.max()}"
        )
    return as_labels("labels", ids, CLASS_IDS)
