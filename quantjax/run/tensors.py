"""Writes safetensors files block by block, and maps their arrays into memory without a copy."""

import hashlib
import json
import math
import pathlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

from quantjax.errors import InputError
from quantjax.run import files

_BLOCK = 1 << 24  # bytes of an array in memory at once
_NAMES = {np.dtype(name): kind for kind, name in files.TYPES.items()}


class Blocks(NamedTuple):
    """Describes an array that is written block by block, since it may not fit into memory.

    Attributes:
      dtype: Type of every block.
      shape: Shape of the whole array.
      blocks: Blocks of any shape, in the order of the array's bytes; read once.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Blocks]) -> dict[str, str]:
    """Writes arrays into a safetensors file atomically, one block in memory at a time.

    Args:
      path: File; replaced if it exists.
      arrays: Numbers or booleans of any shape, by name.

    Returns:
      Digest of each array, as `digest` computes it.

    Raises:
      OSError: if the file cannot be written.
      ValueError: if blocks do not add up to the shape of their array.
    """
    due = {name: x if isinstance(x, Blocks) else _as_blocks(x) for name, x in arrays.items()}
    # Wide types first, as safetensors orders them, so that every array is aligned.
    due = dict(sorted(due.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header, end = {}, 0
    for name, x in due.items():
        start, end = end, end + math.prod(x.shape) * x.dtype.itemsize
        kind, shape = _NAMES[x.dtype], list(x.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with files.replacing(path) as scratch, scratch.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        return {name: _write_array(file, name, x) for name, x in due.items()}


def _write_array(file, name, x):
    """Writes the blocks of one array; returns its digest."""
    digest, left = _new_digest(x.dtype, x.shape), math.prod(x.shape) * x.dtype.itemsize
    for block in x.blocks:
        raw = np.ascontiguousarray(block, x.dtype).reshape(-1).view(np.uint8).data
        file.write(raw)
        digest.update(raw)
        left -= len(raw)
    if left:
        raise InputError(f"blocks of {name} must add up to {x.shape}, got {-left:+} bytes")
    return digest.hexdigest()


def map_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Maps the arrays of a safetensors file; to be called in the context of `files.reading`.

    The arrays are read-only, and stay readable if another file takes the name.

    Args:
      path: Existing file.

    Returns:
      Arrays by name, which the system loads page by page when they are read.

    Raises:
      InputError: if an array's type is unknown to NumPy.
      SafetensorError, or another of `files.DAMAGE`: if the file is damaged.
    """
    # safetensors checks that types, shapes and places fit the file, and so tells of a cut file.
    with safe_open(path, "numpy") as file:
        files.check_types(file)
    raw = np.asarray(np.memmap(path, np.uint8, "r"))
    (length,) = struct.unpack("<Q", raw[:8].tobytes())
    header = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    data, arrays = raw[8 + length :], {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        arrays[name] = data[start:stop].view(files.TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def digest(x: np.ndarray) -> str:
    """Returns the SHA-256, in hex, of an array's type, shape and bytes."""
    digest = _new_digest(x.dtype, x.shape)
    for block in _as_blocks(x).blocks:
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()


def _new_digest(dtype, shape):
    # Type and shape enter too: equal bytes may be other numbers.
    return hashlib.sha256(f"{dtype.str} {tuple(shape)} ".encode())


def _as_blocks(x):
    # safetensors stores little-endian, and the digest must be that of the stored bytes.
    dtype = x.dtype.newbyteorder("<")
    flat = np.ascontiguousarray(x).reshape(-1)
    blocks = (flat[rows] for rows in row_ranges(len(flat), dtype.itemsize))
    return Blocks(dtype, x.shape, blocks)


def row_ranges(num_rows: int, num_bytes: int) -> Iterator[slice]:
    """Yields slices over the rows of an array, each of about 16 MB.

    Args:
      num_rows: Number of rows.
      num_bytes: Bytes of one row.
    """
    step = max(1, _BLOCK // max(1, num_bytes))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
