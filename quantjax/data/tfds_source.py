"""Reads images of prepared TensorFlow Datasets, without TensorFlow."""

import dataclasses
import functools
import io
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantjax.data.decoding import decode, header_size, resized
from quantjax.data.photos import as_batch, check_side, mixed
from quantjax.data.sources import batch_label, check_rows
from quantjax.data.tfds_records import Records, find_builder, import_tfds, open_records
from quantjax.errors import InputError
from quantjax.run.paths import user_path

_BATCH = 256  # records in memory while labels are read
_TABLE = 1 << 30  # bytes of multi-hot labels above which class ids are kept
_MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Decodes images of a TFDS data set on demand; made by `from_tfds`.

    Attributes:
      records: Records of all splits, in the order of the splits.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 if an image has one class and
        multi-hot labels would take more than 1 GiB; a batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      size: Height and width in pixels, or None for images as they are.
      image: Key of the images in a record.
      num_channels: Number of channels: 3, or 1 for grey.
    """

    records: Records
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int | None
    image: str
    num_channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def name_of(self, row: int) -> str:
        """Returns the data set, split and position of a row, for messages."""
        return self.records.name_of(row)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        names = [self.records.name_of(row) for row in rows.ravel()]
        stored = [_inside(record, self.image) for record in self.records.read(rows.ravel())]
        decoded = [self._decode(each, name) for each, name in zip(stored, names, strict=True)]
        return as_batch(decoded, names, batch_label(self.labels, rows, len(self.classes)))

    def _decode(self, stored: bytes | np.ndarray, name: str) -> np.ndarray:
        if isinstance(stored, bytes):
            mode = _MODES[self.num_channels]
            return decode(io.BytesIO(stored), name, size=self.size, mode=mode)
        return stored if self.size is None else resized(stored, self.size)


def from_tfds(
    name: str,
    *,
    split: str | Sequence[str],
    data_dir: str | Path | None = None,
    size: int | None = None,
    image: str = "image",
    label: str | None = "label",
) -> TfdsSource:
    """Opens splits of a data set that TensorFlow Datasets has prepared; never downloads.

    Every record is read once for its label. An image is decoded when its row is requested, as by
    `image_folder`: upright, as RGB, or as grey if the data set declares a single channel.
    TensorFlow is not needed here, but preparing many sets needs it.

    Rows are in TFDS's order. A protocol drawn from them therefore has the same digest as on another
    reader's rows, but other images in its lists.

    Args:
      name: NAME or NAME/CONFIG, each with or without :VERSION, as TFDS writes them.
      split: "train", or several splits, whose rows follow each other; "train[:80%]" is a part of a
        split.
      data_dir: Folder of the prepared set; None is $TFDS_DATA_DIR, or ~/tensorflow_datasets.
      size: Height and width in pixels, see `image_folder`; None takes images of one size as they
        are.
      image: Key of the images, an `Image` or a `Tensor` [H, W, C] of 8 bits, C 1 or 3; "a/b" is
        the key b inside the key a.
      label: Key of a `ClassLabel` or of a sequence of them, such as "objects/label". A label that a
        sequence repeats counts once. The id -1, which in TFDS means no label, gives a row without a
        label. None reads no labels.

    Raises:
      ModuleNotFoundError: if tensorflow-datasets, or Pillow, is not installed.
      FileNotFoundError: if the set is not prepared, or not for random access; the message shows a
        command that prepares it.
      ValueError: if the set, split or key does not exist, a key has another kind of feature, a
        label is none of the classes, or (here or when rows are requested) sizes are mixed, or an
        image or a file of the set is unreadable.
    """
    check_side(size)
    import_tfds()
    folder = user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    folder = folder.absolute()
    builder = find_builder(name, folder)
    shape = _image_shape(builder.info, image)
    classes, several = ((), True) if label is None else _classes(builder.info, label)
    splits = (split,) if isinstance(split, str) else tuple(split)
    records = open_records(builder, splits, folder)
    # Headers are read only if photos are not resized and the data set declares no fixed size.
    look_at_sizes = size is None and None in shape
    ids = _read_labels(records, label, image=image if look_at_sizes else None)
    labels = _table(records, ids, len(classes), several=several)
    return TfdsSource(records, labels, classes, size, image, shape[-1])


def _inside(record: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a key in a record; "a/b" is the key b inside the key a."""
    return functools.reduce(operator.getitem, key.split("/"), record)


def _feature(info: Any, argument: str, key: str) -> tuple[Any, int]:
    """Returns the TFDS feature of a key, and the number of sequences around it."""
    tfds = import_tfds()
    feature, sequences = info.features, 0
    for part in (*key.split("/"), None):
        while type(feature) is tfds.features.Sequence:  # not its subclasses, which are more
            feature, sequences = feature.feature, sequences + 1
        if part is None:
            break
        if not isinstance(feature, tfds.features.FeaturesDict) or part not in feature:
            raise InputError(
                f"{argument} must be a key of {info.full_name}, which has "
                f"{', '.join(info.features)}, got {key}"
            )
        feature = feature[part]
    return feature, sequences


def _other_kind(due: str, info: Any, key: str, feature: Any, sequences: int) -> InputError:
    kind = "a sequence of " * sequences + " ".join(repr(feature).split())
    return InputError(f"{due}, {info.full_name} has {kind} under {key}")


def _image_shape(info: Any, key: str) -> tuple[int | None, int | None, int]:
    """Returns height and width, None where they vary, and the number of channels."""
    tfds = import_tfds()
    feature, sequences = _feature(info, "image", key)
    kinds = (tfds.features.Image, tfds.features.Tensor)
    shape = feature.shape if isinstance(feature, kinds) else ()
    if sequences or len(shape) != 3 or shape[-1] not in _MODES or feature.np_dtype != np.uint8:
        due = "image must be the key of an image of 8 bits and 1 or 3 channels"
        raise _other_kind(due, info, key, feature, sequences)
    return shape


def _classes(info: Any, key: str) -> tuple[tuple[str, ...], bool]:
    """Returns the names of the classes, and whether an image may have several."""
    tfds = import_tfds()
    feature, sequences = _feature(info, "label", key)
    if not isinstance(feature, tfds.features.ClassLabel) or sequences > 1 or not feature.names:
        due = "label must be the key of a ClassLabel, or of a sequence of them"
        raise _other_kind(due, info, key, feature, sequences)
    return tuple(feature.names), sequences == 1


def _read_labels(records: Records, label: str | None, *, image: str | None) -> list[np.ndarray]:
    """Reads the class ids of each record; if `image` is given, checks that image sizes agree."""
    num_rows, ids = int(records.starts[-1]), []
    none = np.zeros(0, np.int64)
    if label is None and image is None:
        return [none] * num_rows
    # Images stay encoded meanwhile; of each record only its labels are kept.
    first: tuple[str, tuple[int, ...]] | None = None
    for start in range(0, num_rows, _BATCH):
        rows = np.arange(start, min(start + _BATCH, num_rows))
        for row, record in zip(rows, records.read(rows), strict=True):
            found = none if label is None else _inside(record, label)
            ids.append(np.asarray(found, np.int64).reshape(-1))
            if image is not None:
                name, stored = records.name_of(row), _inside(record, image)
                is_file = isinstance(stored, bytes)
                shape = header_size(io.BytesIO(stored), name) if is_file else stored.shape[:2]
                first = first or (name, shape)
                if shape != first[1]:
                    raise mixed(*first, name, shape)
    return ids


def _table(
    records: Records, ids: Sequence[np.ndarray], num_classes: int, *, several: bool
) -> np.ndarray:
    """Returns multi-hot labels [N, L] uint8, or class ids [N] if the table would be too large.

    Raises:
      ValueError: if an id is neither a class nor -1, TFDS's id for no label; or if an id is -1 and
        the table would be too large.
    """
    class_ids = np.concatenate(ids)
    # Row of each id: a record may have no, one or several ids.
    rows = np.repeat(np.arange(len(ids)), [len(each) for each in ids])
    as_ids = not several and len(ids) * num_classes > _TABLE
    least = 0 if as_ids else -1
    wrong = np.flatnonzero((class_ids < least) | (class_ids >= num_classes))
    if wrong.size:
        raise InputError(
            f"label {class_ids[wrong[0]]} of {records.name_of(rows[wrong[0]])} is none of "
            f"its {num_classes} classes; leave out a split without labels"
        )
    if as_ids:
        return class_ids
    table = np.zeros((len(ids), num_classes), np.uint8)
    table[rows[class_ids >= 0], class_ids[class_ids >= 0]] = 1
    return table
