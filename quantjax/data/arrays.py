"""Makes data sources from arrays in memory: images, precomputed features, or both."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from quantjax.data.class_counts import renumbered
from quantjax.data.sources import Source, check_rows
from quantjax.errors import InputError
from quantjax.labels import as_labels


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Holds a data set in memory as columns, each [N, ...]; made by `from_arrays`."""

    columns: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    names: Sequence[object] | None = None

    @property
    def labels(self) -> np.ndarray:
        """Returns the multi-hot labels of all rows, [N, L] uint8."""
        return self.columns["label"]

    def name_of(self, row: int) -> object:
        """Returns the name of a row, or its number if the source has no names."""
        return row if self.names is None else self.names[row]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        return {name: column[rows] for name, column in self.columns.items()}


def _one_hot(class_ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Converts class ids [N] into one-hot labels [N, L] uint8."""
    if class_ids.max() >= num_classes:
        raise InputError(f"class id {class_ids.max()} has no name, classes holds {num_classes}")
    return (class_ids[:, None] == np.arange(num_classes)).astype(np.uint8)


def as_multi_hot(
    label: np.ndarray | None, *, num_rows: int, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Converts labels of any allowed kind into multi-hot labels; returns them and the class names.

    Args:
      label: Class ids [N], or one-hot or multi-hot rows [N, L] of zeros and ones; None for no
        labels.
      num_rows: N.
      classes: Names of the L classes; None derives them from the labels.

    Returns:
      Labels [N, L] uint8, copied only if they were of another type, and the L names.

    Raises:
      ValueError: if the labels are neither class ids nor zeros and ones.
    """
    names = None if classes is None else tuple(classes)
    # No columns mean the same as None: every row is without a label.
    if label is None or np.shape(label) == (num_rows, 0):
        return np.zeros((num_rows, len(names or ())), np.uint8), names or ()
    # Class ids [N, 1] and a single label [N, 1] look alike, unless the class has a name.
    label = np.asarray(as_labels("label", label, min_classes=2 if names is None else 0))
    if len(label) != num_rows:
        raise InputError(f"label must have {num_rows} rows, got {label.shape}")
    if label.ndim == 1:
        label, names = renumbered(label) if names is None else (label, names)
        return _one_hot(label, len(names)), names
    names = tuple(map(str, range(label.shape[1]))) if names is None else names
    if label.shape[1] != len(names):
        raise InputError(
            f"label must have a column for each of {len(names)} classes, got shape {label.shape}"
        )
    return label.astype(np.uint8, copy=False), names


def _image(image: np.ndarray) -> np.ndarray:
    """Checks images and returns them as [N, H, W, C]; grey images [N, H, W] get a channel axis."""
    image = np.asarray(image)
    if image.ndim not in (3, 4) or image.dtype != np.uint8 or not image.size:
        raise InputError(
            "image must be uint8 [N, H, W, C] or [N, H, W] and not empty, "
            f"got {image.dtype} {image.shape}"
        )
    if image.ndim == 3:
        return image[..., None]
    _, height, width, channels = image.shape
    # Images [N, C, H, W] would pass as C rows of pixels. Axes of 4 or less may be real heights and
    # widths, such as of tiny test images.
    if height in (1, 3, 4) and channels not in (1, 3, 4) and width > 4:
        raise InputError(
            f"image must be [N, H, W, C], got {image.shape}, whose channels come first; pass "
            "image.transpose(0, 2, 3, 1)"
        )
    return image


def _feature(x: np.ndarray) -> np.ndarray:
    """Checks that features are finite and returns them as [N, F] float32."""
    x = np.asarray(x)
    # bfloat16 is of kind "V" to NumPy.
    if x.ndim != 2 or not x.size or not (x.dtype.kind in "fiu" or x.dtype.name == "bfloat16"):
        raise InputError(
            f"feature must be real numbers [N, F] and not empty, got {x.dtype} {x.shape}"
        )
    with np.errstate(over="ignore"):  # too large numbers become infinite and fail the check below
        x = x.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise InputError(
            f"feature must be finite in float32, got NaN or infinity in row {bad[0]} "
            f"({len(bad)} of {len(x)} rows)"
        )
    return x


def _frozen(column: np.ndarray) -> np.ndarray:
    """Returns a read-only view of an array, which itself stays writable for its owner."""
    # Not a copy, which would double the memory of a data set.
    view = column.view()
    view.flags.writeable = False
    return view


def from_arrays(
    image: np.ndarray | None = None,
    label: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[object] | None = None,
    **columns: np.ndarray,
) -> ArraySource:
    """Makes a data source from arrays of images, features and labels, without copying them.

    Args:
      image: [N, H, W, C] or [N, H, W], uint8; None for a source with only the column "feature".
      label: Class ids [N], or one-hot or multi-hot rows [N, L] of zeros and ones. A row of zeros
        has no label; None gives a source without any label. Class ids that leave most of a table
        of more than 1,024 columns empty are renumbered, with a warning.
      classes: Names of the L classes; None takes the class ids, or "0", "1", ...
      names: Names of the N rows, such as the paths of the photos, for messages.
      **columns: More columns, [N, ...] each, which a batch holds under the same name; "feature" is
        [N, F], finite, and stored as float32.

    Raises:
      ValueError: if a shape or type is wrong, or a feature is not finite.
    """
    if image is not None:
        columns = {"image": _image(image), **columns}
    # Checked first, as their length is the number of rows that every other column must have.
    if "feature" in columns:
        columns["feature"] = _feature(columns["feature"])
    content = [columns[name] for name in ("image", "feature") if name in columns]
    if not content:
        raise InputError("from_arrays needs image=IMAGES or feature=FEATURES, got neither")
    num_rows = len(content[0])
    label, classes = as_multi_hot(label, num_rows=num_rows, classes=classes)
    # `train.fit` adds "index" and `embedding` adds "mask" to every batch.
    for name, array in columns.items():
        if name in ("index", "mask"):
            raise InputError(f"column {name} would hide the batch's own {name}; rename it")
        if np.ndim(array) == 0 or len(array) != num_rows:
            raise InputError(f"column {name} must have {num_rows} rows, got {np.shape(array)}")
    if names is not None and len(names) != num_rows:
        raise InputError(f"names must be of the {num_rows} rows, got {len(names)}")
    columns = {**columns, "label": label}
    frozen = {name: _frozen(np.asarray(array)) for name, array in columns.items()}
    return ArraySource(frozen, classes, names)


def from_features(
    x: np.ndarray,
    label: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[object] | None = None,
    **columns: np.ndarray,
) -> ArraySource:
    """Makes a data source of precomputed features, without images.

    Its batches have the column "feature", so a method takes it with `inputs=methods.features`.

    Args:
      x: Features [N, F], real and finite, held as float32.
      label: See `from_arrays`.
      classes: See `from_arrays`.
      names: See `from_arrays`.
      **columns: See `from_arrays`.

    Raises:
      ValueError: if a shape or type is wrong, or a feature is not finite.
    """
    return from_arrays(None, label, classes=classes, names=names, feature=x, **columns)


def with_columns(source: Source, **columns: np.ndarray) -> ArraySource:
    """Copies a source into memory, with some columns added or replaced.

    Args:
      source: Any source; its rows keep their names.
      **columns: [N, ...] each.

    Raises:
      ValueError: if a column has another number of rows.
    """
    columns = {**source[np.arange(len(source))], **columns}
    label = columns.pop("label")
    # Kept, so that messages still name files once images are in memory.
    named = getattr(source, "name_of", None)
    names = None if named is None else [named(row) for row in range(len(source))]
    return from_arrays(
        columns.pop("image", None), label, classes=source.classes, names=names, **columns
    )
