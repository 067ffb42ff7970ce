"""Reads CIFAR-10 from its published pickle files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from quantjax.data.arrays import ArraySource, from_arrays
from quantjax.data.locate import locate
from quantjax.errors import InputError, MissingFileError
from quantjax.run import pickles

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_FOLDER = "cifar-10-batches-py"
_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_ROWS_PER_FILE = 10_000
_ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html (python version)"


def _key(batch: dict, name: str) -> Any:
    """Returns the entry of a key that is text, or bytes as Python 3 may have kept it."""
    return batch.get(name, batch.get(name.encode()))


def _check_batch(batch: Any, path: Path) -> tuple[np.ndarray, list[int]]:
    """Returns images [n, 3072] and class ids of one unpickled file, or raises ValueError."""
    advice = "fetch the file anew from its source"
    if type(batch) is not dict:
        raise InputError(f"{path} must hold a dict, got {type(batch).__name__}; {advice}")
    data, labels = _key(batch, "data"), _key(batch, "labels")
    shape = (_ROWS_PER_FILE, 3072)
    if not isinstance(data, np.ndarray) or data.shape != shape or data.dtype != np.uint8:
        came = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError(f"'data' in {path} must be uint8 {shape}, got {came}; {advice}")
    if type(labels) is not list or len(labels) != _ROWS_PER_FILE:
        came = f"{len(labels)}" if type(labels) is list else type(labels).__name__
        raise InputError(
            f"'labels' in {path} must be a list of {_ROWS_PER_FILE} class ids, got {came}; {advice}"
        )
    # Not isinstance, to which True is an int.
    if not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise InputError(f"'labels' in {path} must be whole numbers from 0 to 9; {advice}")
    return data, labels


def cifar10(data_dir: str | Path | None = None) -> ArraySource:
    """Reads all 60,000 images of CIFAR-10, [60000, 32, 32, 3].

    Rows follow the files data_batch_1 to data_batch_5, then test_batch: the official test images
    are rows 50,000 and above.

    Args:
      data_dir: Folder that holds `cifar-10-batches-py`, or that folder; None searches
        $QUANTJAX_DATA.

    Raises:
      FileNotFoundError: if the folder, or some of its six files, is missing.
      ValueError: if a file is truncated, damaged, or holds anything but arrays and containers.
    """
    folder = locate(data_dir, _FOLDER, origin=_ORIGIN, files=_FILES)
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{folder} is half there, it lacks {', '.join(missing)}; unpack the whole archive "
            f"from {_ORIGIN}"
        )
    images = np.empty((len(_FILES), _ROWS_PER_FILE, 32, 32, 3), np.uint8)
    labels: list[int] = []
    for number, name in enumerate(_FILES):
        path = folder / name
        batch = pickles.load(io.BytesIO(path.read_bytes()), name=str(path))
        data, class_ids = _check_batch(batch, path)
        # The files hold channels first: all red, then all green, then all blue.
        images[number] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels += class_ids
    return from_arrays(images.reshape(-1, 32, 32, 3), np.array(labels), classes=CLASSES)
