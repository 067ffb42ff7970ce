"""Replaces the functions that a pickle of numpy arrays calls by checked, harmless versions."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError

_MAX_BITS = 128


class Global(NamedTuple):
    """Represents a name that a pickle mentions, "module name", without importing it."""

    name: str


class Pending(NamedTuple):
    """Represents an object whose content follows in a BUILD operation, which fills `built`."""

    build: Callable[[Any], Any]
    built: list


def are_counts(*numbers: Any) -> bool:
    """Returns whether all values are whole numbers from 0 to 2^128 - 1.

    A malicious file may have a number of a million digits, which takes hours to multiply.
    """
    return all(type(x) is int and x >= 0 and x.bit_length() <= _MAX_BITS for x in numbers)


def _encode(text: str, encoding: str) -> bytes:
    """Replaces _codecs.encode, by which Python 3 writes bytes in old pickle protocols."""
    if encoding != "latin1":
        raise InputError("text may only be encoded as 'latin1'")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Replaces bytes(), by which Python 3 writes empty bytes in old pickle protocols."""
    return b""


def _dtype(code: str, *_: Any) -> Pending:
    """Replaces numpy.dtype, for booleans and numbers only; BUILD then sets the byte order."""
    if not re.fullmatch(r"[biufc][0-9]{1,2}", code):
        raise InputError(f"refused dtype {code[:40]!r}, only booleans and numbers are allowed")

    def build(state: tuple) -> np.dtype:
        if type(state) is not tuple or state[2:5] != (None, None, None):
            raise InputError("refused a structured dtype, only booleans and numbers are allowed")
        # Any other text would give another type: "O," means object pointers, read from the file.
        if state[1] not in ("<", ">", "=", "|"):
            raise InputError("the byte order of a dtype must be '<', '>', '=' or '|'")
        return np.dtype(state[1] + code)

    return Pending(build, [])


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Replaces numpy's _frombuffer: checks that sizes agree, then views bytes as an array."""
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
    """Replaces numpy's _reconstruct: returns an array whose shape and content follow in BUILD."""
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
