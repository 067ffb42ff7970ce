"""Reads pickles of numpy arrays and plain containers without running code from the file.

The standard library's unpickler does the work. It is told to know only the operations that arrays,
lists, tuples, dicts, text and numbers need (protocols 2 to 5), and to find only the functions of a
closed table, each of which is a harmless replacement of ours.
"""

import dataclasses
import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from quantjax.errors import InputError
from quantjax.run import files

_OPERATIONS = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8
BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
"""
_MAX_BITS = 128
# Python hashes larger whole numbers alike, or slowly: a dict of such would take hours.
_MAX_KEY = 1 << 60


# No tuple, which a file could pass on as the arguments of a call.
@dataclasses.dataclass(slots=True, eq=False)
class Pending:
    """Represents an object whose content follows in a BUILD operation, which fills `built`."""

    build: Callable[[Any], Any]
    built: list


def are_counts(*numbers: Any) -> bool:
    """Returns whether all values are whole numbers from 0 to 2^128 - 1.

    A malicious file may have a number of a million digits, which takes hours to multiply.
    """
    return all(type(x) is int and x >= 0 and x.bit_length() <= _MAX_BITS for x in numbers)


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Replaces _codecs.encode and bytes(), by which Python 3 writes bytes in protocol 2."""
    if type(text) is not str or encoding != "latin1":
        raise InputError("only text may be encoded, and only as 'latin1'")
    return text.encode("latin1")


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
    if type(data) is not bytes:
        raise InputError(f"the content of an array must be bytes, got {type(data).__name__}")
    due = math.prod(shape) * dtype.itemsize
    if len(data) != due:
        raise InputError(f"an array {list(shape)} of {dtype} takes {due} bytes, got {len(data)}")
    return np.ndarray(shape, dtype, data, order="F" if order == "F" else "C")


def _reconstruct(subtype: None, *_: Any) -> Pending:
    """Replaces numpy's _reconstruct: returns an array whose shape and content follow in BUILD."""
    if subtype is not None:
        raise InputError("refused a subclass of numpy.ndarray, only plain arrays are allowed")

    def build(state: tuple) -> np.ndarray:
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if type(data) is str else data  # as Python 2 wrote it
        return _array(data, dtype, shape, "F" if is_fortran else "C")

    return Pending(build, [])


NUMPY: Mapping[str, Any] = {
    "_codecs encode": _bytes,
    "__builtin__ bytes": _bytes,
    "numpy ndarray": None,  # only mentioned, as an argument of _reconstruct
    "numpy dtype": _dtype,
    "numpy.core.multiarray _reconstruct": _reconstruct,
    "numpy._core.multiarray _reconstruct": _reconstruct,
    "numpy.core.numeric _frombuffer": _array,
    "numpy._core.numeric _frombuffer": _array,
}


class _Memo(dict):
    """Holds what a pickle recalls by number, as it is once it was built."""

    def __getitem__(self, number: int) -> Any:
        value = super().__getitem__(number)
        return value.built[0] if type(value) is Pending and value.built else value


def _refuse(_: Any) -> None:
    """Takes the place of every operation that arrays and containers do not need."""
    raise InputError("refused an operation that makes no array and no plain container")


# The library's unpickler in Python. Its twin in C, `pickle.Unpickler`, allocates by numbers in the
# file, and overflows its stack where it hashes a tuple that is nested a million deep.
class _Unpickler(pickle._Unpickler):
    stack: list
    pop_mark: Callable[[], list]

    def __init__(
        self,
        stream: io.BytesIO,
        allowed: Mapping[str, Any],
        resolve: Callable[[Any], Any] | None,
    ):
        super().__init__(stream, encoding="latin1")
        self.memo = _Memo()
        self.pending: list[Pending] = []
        self.allowed, self.resolve = allowed, resolve

    def persistent_load(self, pid: Any) -> Any:
        """Returns the object of a persistent id."""
        if self.resolve is None:
            raise InputError("refused a persistent id")
        return self.resolve(pid)

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a global, without importing the global."""
        if f"{module} {name}" not in self.allowed:
            raise InputError(
                f"refused global {f'{module} {name}'[:80]!r}, only arrays and plain containers are "
                "allowed"
            )
        return self.allowed[f"{module} {name}"]

    def load(self) -> Any:
        """Reads a pickle, and raises InputError if an array in it has no content."""
        value = super().load()
        if not all(pending.built for pending in self.pending):
            raise InputError("an array has no content")
        return value

    def load_reduce(self) -> None:
        """Calls a replacement, of which `find_class` alone gives any."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise InputError("refused a call of something that makes no array")
        self.stack.append(function(*arguments))
        if type(self.stack[-1]) is Pending:
            self.pending.append(self.stack[-1])

    def load_build(self) -> None:
        """Replaces the library's method, which would set any attribute of any object."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is dict:  # an OrderedDict of a PyTorch file: its attributes are dropped
            return
        if type(target) is not Pending:
            raise InputError(f"refused to set attributes of {type(target).__name__}")
        target.built[:] = [target.build(state)]
        self.stack[-1] = target.built[0]

    def load_setitem(self) -> None:
        """Sets one item of a dict."""
        self._set([self.stack.pop(-2), self.stack.pop()])

    def load_setitems(self) -> None:
        """Sets the items of a dict that follow the last mark."""
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise InputError(f"items are set in {type(target).__name__}, not in a dict")
        if not all(map(_is_key, items[::2])):
            raise InputError("a key of a dict must be text or a number of at most 60 bits")
        target.update(zip(items[::2], items[1::2], strict=True))

    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(range(256), _refuse),
        **{
            ord(operation.code): pickle._Unpickler.dispatch[ord(operation.code)]
            for operation in pickletools.opcodes
            if operation.name in _OPERATIONS.split()
        },
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        # As bytes: the library would make a bytearray of any length before it reads its content.
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }


def _is_key(key: Any) -> bool:
    # Hashing a tuple nested a million deep would overflow the C stack.
    is_small = isinstance(key, int) and -_MAX_KEY < key < _MAX_KEY
    return is_small or isinstance(key, str | bytes | float)


def load(
    stream: io.BytesIO,
    *,
    name: str,
    allowed: Mapping[str, Any] = NUMPY,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the next pickle of a stream, and leaves the stream at the pickle's end.

    Text from Python 2 is returned as `str`, with one character for each byte. Arrays are read-only
    views of the bytes in the file, in its byte order. A container may hold itself, as in any
    pickle. A malicious file may take far more memory than it has bytes.

    Args:
      stream: The file's content.
      name: Name of the file in errors.
      allowed: Maps a global, "module name", to its replacement: a function, or an object that the
        pickle only mentions. Neither may be a class.
      persistent_load: Converts a persistent id (PyTorch's storages) into an object; without it no
        persistent id is allowed.

    Raises:
      ValueError: if the pickle is truncated or damaged, or contains anything other than arrays,
        lists, tuples, dicts, text, bytes and numbers.
    """
    claim = f"cannot read {name}"
    advice = (
        "the file is truncated, damaged or not what its name says: fetch it anew from its source"
    )
    try:
        with files.reading(claim, advice):
            return _Unpickler(stream, allowed, persistent_load).load()
    except MemoryError as error:
        raise InputError(f"{claim}: it takes more memory than there is; {advice}") from error
