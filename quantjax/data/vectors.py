"""Reads vectors [N, D] from a file by its suffix, memory-mapped where the format allows it."""

import tokenize
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quantjax.errors import InputError, MissingFileError, load_package
from quantjax.run import files
from quantjax.run.paths import user_path

_ADVICE = "it may be cut or of another format"
_LOOKED_AT = 65_536  # rows whose width is read: all rows of a billion would read the whole file
_NPY = b"\x93NUMPY\1\0"
_MOST_DIM = 1 << 20  # a larger width is the start of another kind of file


def read_vectors(path: str | Path) -> np.ndarray:
    """Reads the vectors of a file.

    The suffix names the format: .npy; .fvecs, .bvecs or .ivecs, as BigANN and Deep1M have, in which
    an int32 of the width precedes the float32, uint8 or int32 numbers of each row; or .parquet with
    one column of lists, which needs the extra `parquet`.

    Args:
      path: The file. Only .parquet is read into memory; the other formats are mapped, so that a
        file may be larger than the memory. NaN is not looked for.

    Returns:
      Vectors [N, D] in the file's type, read-only.

    Raises:
      FileNotFoundError: if the file does not exist.
      ModuleNotFoundError: if the file is .parquet and pyarrow is not installed.
      ValueError: if the suffix is unknown, or the file is empty, cut, or not real numbers [N, D].
    """
    read = _READERS.get(Path(path).suffix.lower())
    if read is None:
        raise InputError(f"vectors must be in a file {', '.join(_READERS)}, got {path}")
    path = _existing(path)
    with files.reading(f"cannot read vectors {path}", _ADVICE):
        x = read(path)
        if x.ndim != 2 or x.dtype.kind not in "fiu" or not x.size:
            raise InputError(f"they must be real numbers [N, D], got {x.dtype} {x.shape}")
    # A mapped file is read-only anyway; arrays in memory are not to differ from it.
    x.flags.writeable = False
    return x


def read_npy(path: str | Path) -> np.ndarray:
    """Reads the array of a .npy file, mapped and not copied; pickled objects are not read.

    Args:
      path: The file.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if the file is cut, of another format, or holds objects.
    """
    path = _existing(path)
    with files.reading(f"cannot read {path}", _ADVICE):
        return _read_npy(path)


def _existing(path):
    path = user_path(path)
    if not path.is_file():
        raise MissingFileError(f"no file {path}; name one that exists")
    return path


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        # Numbers are always of this version; a damaged header of another may claim any memory.
        if file.read(len(_NPY)) != _NPY:
            raise InputError("it does not begin as a .npy file of version 1.0")
    # NumPy parses a damaged header as Python 2's, and lets the errors and warnings of that through.
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, tokenize.TokenError) as error:
        raise InputError("its header is damaged") from error


def _reader_of_rows(number: str) -> Callable[[Path], np.ndarray]:
    """Returns the reader of files in which an int32 of the width precedes every row's numbers."""

    def read(path):
        size = path.stat().st_size
        dim = int(np.fromfile(path, "<i4", count=1)[0]) if size >= 4 else 0
        if not 1 <= dim <= _MOST_DIM:
            raise InputError(f"the first row's width must be 1 to {_MOST_DIM:,}, got {dim}")
        row = np.dtype([("dim", "<i4"), ("x", number, (dim,))])
        if size % row.itemsize:
            raise InputError(
                f"{size:,} bytes are no whole rows of {dim} numbers and {row.itemsize} bytes"
            )
        rows: Any = np.memmap(path, row, mode="r")
        # A row of another width shifts all rows behind it, so that the last row shows it too.
        some = np.unique(np.linspace(0, len(rows) - 1, _LOOKED_AT).astype(np.int64))
        wrong = some[rows["dim"][some] != dim]
        if wrong.size:
            found = rows["dim"][wrong[0]]
            raise InputError(f"rows must have one width, got {dim} and, in row {wrong[0]}, {found}")
        return rows["x"]

    return read


def _read_parquet(path: Path) -> np.ndarray:
    parquet: Any = load_package("pyarrow.parquet", extra="parquet", purpose="a .parquet file")
    types = parquet.read_schema(path)
    lists = [field.name for field in types if hasattr(field.type, "value_field")]
    if len(lists) != 1:
        raise InputError(
            f"it must have one column of lists, got {len(lists)} of the columns "
            f"{files.one_line(', '.join(types.names))}"
        )
    column = parquet.read_table(path, columns=lists, memory_map=True).column(0)
    # Widths of null rows and of lists of any kind, without a Python object for each row.
    chunks = [np.diff(_ends(chunk)) for chunk in column.chunks]
    widths = np.unique(np.concatenate([np.zeros(0, np.int64), *chunks]))
    if column.null_count or widths.size > 1:
        raise InputError(
            f"rows of {lists[0]} must have one width, got widths {widths.min()} to {widths.max()} "
            f"and {column.null_count} null rows"
        )
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def _ends(chunk: Any) -> np.ndarray:
    """Returns the offsets [N + 1] of the lists of a pyarrow array."""
    if hasattr(chunk, "offsets"):
        return chunk.offsets.to_numpy().astype(np.int64)
    return np.arange(len(chunk) + 1) * chunk.type.list_size


_READERS = {
    ".npy": _read_npy,
    ".fvecs": _reader_of_rows("<f4"),
    ".bvecs": _reader_of_rows("u1"),
    ".ivecs": _reader_of_rows("<i4"),
    ".parquet": _read_parquet,
}
