"""Defines the protocol of data sources, which give images, features and labels by row."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from quantjax.errors import InputError, RowError

_SHOWN = 5  # names that a message shows


class Source(Protocol):
    """Gives images or features, and labels, by row. Any object with these four members trains.

    Two more attributes are optional. `digest`, a str that identifies the content, tells sources
    apart: runs on the same rows of two folders of records are different runs. `name_of(row)`
    returns the name of a row, such as the path of its file, for messages.

    Rows need no labels: a row without a label is a row of zeros, and a source without any label
    has labels [N, 0] and classes ().
    """

    @property
    def labels(self) -> np.ndarray:
        """Returns the labels of all rows without reading an image.

        They are multi-hot [N, L] uint8, or class ids [N] int64 if every row has one class and the
        classes are too many for a table (In-shop has 7,982 items).
        """
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the names of the L classes; empty if no row has a label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the batch of some rows, as a dict of columns.

        "label" is [B, L] uint8. "image", [B, H, W, C] uint8, or "feature", [B, F] float32, or both
        are present; any other column is [B, ...].
        """
        ...


def row_name(source: Source, row: int) -> str:
    """Returns the name of a row, such as the path of its file, or its number without a name."""
    # Optional, so that an array with three more members is a source.
    name_of = getattr(source, "name_of", None)
    return str(row) if name_of is None else str(name_of(int(row)))


def row_names(source: Source, rows: np.ndarray) -> str:
    """Returns the names of the first 5 rows and the number of further rows, for a message."""
    return ", ".join(cut([row_name(source, row) for row in rows]))


def cut(names: Sequence[str], most: int = _SHOWN) -> list[str]:
    """Shortens a list of names to the first few and "and N more", for a message."""
    rest = len(names) - most
    return [*names[:most], f"and {rest:,} more"] if rest > 0 else list(names)


def column(batch: Mapping[str, Any], name: str) -> Any:
    """Returns a column of a batch, or raises an error that lists the columns.

    Raises:
      ValueError: if the batch has no such column, as a batch of features has no "image".
    """
    if name not in batch:
        raise InputError(f"the batch has no {name}, its columns are {', '.join(batch)}")
    return batch[name]


def check_rows(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Checks row numbers and returns them as an integer array of one axis or more.

    Raises:
      IndexError: if rows are not integers, or not all in [0, num_rows).
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
    """Returns the multi-hot labels of rows, from multi-hot labels or class ids.

    Args:
      labels: Multi-hot [N, L] uint8, or class ids [N].
      rows: Rows, [B] or of more axes.
      num_classes: L.

    Returns:
      Labels [B, L] uint8.
    """
    label = labels[rows]
    # Made for the batch alone: a table of all rows may be larger than memory.
    if labels.ndim == 1:
        label = (label[..., None] == np.arange(num_classes)).astype(np.uint8)
    return label
