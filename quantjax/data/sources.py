"""Where images come from: one protocol, and the source that holds arrays in memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from quantjax.errors import InputError, RowError


class Source(Protocol):
    """Images and labels by row. Whatever has these four can be trained on.

    A source that has a `digest` too, a str of what it holds, is told apart from others by it: runs
    on the same rows of two folders of records are two runs.
    """

    @property
    def labels(self) -> np.ndarray:
        """Labels of all rows, without touching an image.

        Multi-hot [N, L] uint8, or class ids [N] int64 where every row has one class of so many
        that a table would not fit (In-shop has 7,982 items).
        """
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the L classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns "image" [B, H, W, C] uint8, "label" [B, L] uint8 and other columns [B, ...]."""
        ...


def check_rows(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns rows as an integer array of one axis or more.

    Raises:
      IndexError: if they are not integers, or not all in [0, num_rows).
    """
    rows = np.asarray(rows)
    if rows.ndim == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise RowError(
            f"rows must be an array of integers, got {rows.dtype} {rows.shape}; "
            "turn a mask into rows with np.flatnonzero"
        )
    if rows.size and not 0 <= rows.min() <= rows.max() < num_rows:
        raise RowError(f"rows must lie in 0 to {num_rows - 1}, got {rows.min()} to {rows.max()}")
    return rows


def batch_label(labels: np.ndarray, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the labels of rows, multi-hot whichever kind a source's labels are.

    Args:
      labels: Multi-hot [N, L] uint8, or class ids [N].
      rows: Rows, [B] or of more axes.
      num_classes: L.

    Returns:
      Labels [B, L] uint8.
    """
    label = labels[rows]
    if labels.ndim == 1:
        label = (label[..., None] == np.arange(num_classes)).astype(np.uint8)
    return label


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Columns held in memory, each [N, ...]; made by `from_arrays`."""

    columns: Mapping[str, np.ndarray]
    classes: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """Multi-hot labels of all rows, [N, L] uint8."""
        return self.columns["label"]

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        return {name: column[rows] for name, column in self.columns.items()}


def _one_hot(class_ids: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Returns [N, L] uint8 of class ids [N]; L is the largest id + 1 where no number is given."""
    if class_ids.min() < 0:
        raise InputError(f"class ids must be 0 or more, got {class_ids.min()}")
    due = int(class_ids.max()) + 1 if num_classes is None else num_classes
    if class_ids.max() >= due:
        raise InputError(f"class id {class_ids.max()} has no name, classes holds {due}")
    return (class_ids[:, None] == np.arange(due)).astype(np.uint8)


def _multi_hot(label: np.ndarray, *, num_rows: int, num_classes: int | None = None) -> np.ndarray:
    """Returns labels as [N, L] uint8, copied only where they are not that already.

    Args:
      label: Class ids [N], or one-hot or multi-hot rows [N, L] of zeros and ones.
      num_rows: N.
      num_classes: L; None takes what the labels show.

    Raises:
      ValueError: if the labels are neither.
    """
    label = np.asarray(label)
    if label.shape == (num_rows,) and np.issubdtype(label.dtype, np.integer):
        return _one_hot(label, num_classes)
    expected = f"class ids ({num_rows},) of integers, or zeros and ones ({num_rows}, classes)"
    if label.ndim != 2 or len(label) != num_rows or label.dtype.kind not in "biuf":
        raise InputError(f"label must be {expected}, got {label.dtype} {label.shape}")
    if label.shape[1] != (num_classes or label.shape[1]):
        raise InputError(
            f"label must have a column for each of {num_classes} classes, got shape {label.shape}"
        )
    if label.shape[1] == 1 and num_classes is None:
        raise InputError(
            f"label {label.shape} may be class ids or one class: "
            "pass label[:, 0], or name the class in classes"
        )
    if not ((label == 0) | (label == 1)).all():
        raise InputError(f"label must be {expected}, got other values in {label.shape}")
    return label.astype(np.uint8, copy=False)


def _frozen(column: np.ndarray) -> np.ndarray:
    """Returns a read-only view; the array it views stays writable for its owner."""
    view = column.view()
    view.flags.writeable = False
    return view


def _check_channels_last(shape: tuple[int, ...]) -> None:
    """Raises ValueError if images look like [N, C, H, W], which a network would take for 3 rows."""
    # Heights and widths of a few pixels may be anything, such as features in place of images.
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4) and shape[2] > 4:
        raise InputError(
            f"image must be [N, H, W, C], got {shape}, whose channels come first; pass "
            "image.transpose(0, 2, 3, 1)"
        )


def from_arrays(
    image: np.ndarray,
    label: np.ndarray,
    *,
    classes: Sequence[str] | None = None,
    **columns: np.ndarray,
) -> ArraySource:
    """Returns a source over arrays, which are viewed, not copied.

    Args:
      image: [N, H, W, C] or [N, H, W], uint8.
      label: Class ids [N], or one-hot or multi-hot rows [N, L] of zeros and ones.
      classes: Names of the L classes; "0", "1", ... where absent.
      **columns: More columns, [N, ...] each, that reach a batch under their name.

    Raises:
      ValueError: if a shape or type is another one.
    """
    image = np.asarray(image)
    if image.ndim not in (3, 4) or image.dtype != np.uint8 or not image.size:
        raise InputError(
            "image must be uint8 [N, H, W, C] or [N, H, W] and not empty, "
            f"got {image.dtype} {image.shape}"
        )
    _check_channels_last(image.shape)
    image = image[..., None] if image.ndim == 3 else image
    num_rows = len(image)
    num_classes = None if classes is None else len(classes)
    label = _multi_hot(label, num_rows=num_rows, num_classes=num_classes)
    names = map(str, range(label.shape[1])) if classes is None else classes
    for name, column in columns.items():
        if name in ("index", "mask"):
            raise InputError(f"column {name} would hide the batch's own {name}; rename it")
        if np.ndim(column) == 0 or len(column) != num_rows:
            raise InputError(f"column {name} must have {num_rows} rows, got {np.shape(column)}")
    columns = {"image": image, "label": label, **columns}
    frozen = {name: _frozen(np.asarray(column)) for name, column in columns.items()}
    return ArraySource(frozen, tuple(names))
