"""Stand-ins for what a pickle of numpy arrays calls: they check, then view bytes as an array."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError

_MAX_BITS = 128


class Global(NamedTuple):
    """A name that a pickle mentions, "module name"; nothing is imported for it."""

    name: str


class Pending(NamedTuple):
    """An object whose content follows in a BUILD; `built` is empty until then."""

    build: Callable[[Any], Any]
    built: list


def are_counts(*numbers: Any) -> bool:
    """Tells whether all are whole numbers from 0, of no more digits than sizes can have.

    A file may have a number of a million digits; to multiply it takes hours.
    """
    return all(type(x) is int and x >= 0 and x.bit_length() <= _MAX_BITS for x in numbers)


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, by which Python 3 writes bytes in old protocols."""
    if encoding != "latin1":
        raise InputError("text may only be encoded as 'latin1'")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Stands in for bytes(), by which Python 3 writes no bytes at all in old protocols."""
    return b""


def _dtype(code: str, *_: Any) -> Pending:
    """Stands in for numpy.dtype: booleans and numbers alone; the state carries the byte order."""
    if not re.fullmatch(r"[biufc][0-9]{1,2}", code):
        raise InputError(f"refused dtype {code[:40]!r}, only booleans and numbers are allowed")

    def build(state: tuple) -> np.dtype:
        if type(state) is not tuple or state[2:5] != (None, None, None):
            raise InputError("refused a structured dtype, only booleans and numbers are allowed")
        # Any other text makes another type: "O," one of object pointers, taken from the file.
        if state[1] not in ("<", ">", "=", "|"):
            raise InputError("the byte order of a dtype must be '<', '>', '=' or '|'")
        return np.dtype(state[1] + code)

    return Pending(build, [])


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Views bytes as an array, once sizes agree; stands in for numpy's _frombuffer."""
    if not isinstance(dtype, np.dtype) or type(shape) is not tuple or len(shape) > 8:
        raise InputError("an array must have a dtype and a shape of at most 8 axes")
    if not are_counts(*shape):
        raise InputError("the axes of an array must be whole numbers, 0 or more")
    if not isinstance(data, bytes | bytearray):
        raise InputError(f"the content of an array must be bytes, got {type(data).__name__}")
    due = math.prod(shape) * dtype.itemsize
    if len(data) != due:
        raise InputError(f"an array {list(shape)} of {dtype} takes {due} bytes, got {len(data)}")
    return np.ndarray(shape, dtype, data, order="F" if order == "F" else "C")


def _reconstruct(subtype: Global, *_: Any) -> Pending:
    """Stands in for numpy's _reconstruct: an array whose shape and content follow."""
    if subtype != Global("numpy ndarray"):
        raise InputError("refused a subclass of numpy.ndarray, only plain arrays are allowed")

    def build(state: tuple) -> np.ndarray:
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
        return _array(data, dtype, shape, "F" if is_fortran else "C")

    return Pending(build, [])


NUMPY: Mapping[str, Callable[..., Any] | None] = {
    "_codecs encode": _encode,
    "__builtin__ bytes": _empty_bytes,
    "numpy ndarray": None,
    "numpy dtype": _dtype,
    "numpy.core.multiarray _reconstruct": _reconstruct,
    "numpy._core.multiarray _reconstruct": _reconstruct,
    "numpy.core.numeric _frombuffer": _array,
    "numpy._core.numeric _frombuffer": _array,
}
