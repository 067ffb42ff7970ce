"""Reads pickles of numpy arrays and plain containers without running code from the file.

`pickletools.genops` splits the file into operations without executing them. This module executes
the few operations that arrays, lists, tuples, dicts, text and numbers need, with a list as the
stack. A global is only a name, looked up in a table of harmless replacements. Array content is not
copied, and decoded content may not be much larger than the file, so that a small file cannot fill
the memory; its objects may take about seventy bytes for each byte of the file.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from quantjax.errors import InputError
from quantjax.pickles.pickled_arrays import NUMPY, Global, Pending

# Decoded bytes per byte of file. A normal array costs at most 2: its decoded text, then itself.
_MAX_GROWTH = 4
# Bytes charged per item of a list argument: a file may pass one list to many calls that copy it.
_ITEM_COST = 32
# Normal calls have 7 arguments at most; a malicious file may pass very many, very often.
_MAX_ARGUMENTS = 16
# Python hashes larger whole numbers alike, or slowly: a dict of such would take hours.
_MAX_KEY = 1 << 60
_CONSTANTS = frozenset(
    [
        "NONE",
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BININT",
        "BININT1",
        "BININT2",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
# What damaged bytes can raise in `pickletools`, in the operations and in the stand-ins; a Warning
# (of a strange escape) is raised only where the user made errors of them.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    AttributeError,
    Warning,
)


class _Reader(NamedTuple):
    """Wraps a stream without `tell`, which genops would call for every operation."""

    read: Callable[[int], bytes]
    readline: Callable[[], bytes]


class _Machine(NamedTuple):
    """Holds the state of the pickle machine; `room[0]` is the bytes that may still be decoded."""

    allowed: Mapping[str, Callable[..., Any] | None]
    persistent_load: Callable[[Any], Any] | None
    room: list[int]
    stack: list
    marks: list[int]
    memo: dict[int, Any]
    pending: list[Pending]


def _spend(machine: _Machine, value: Any) -> Any:
    if isinstance(value, bytes | np.ndarray | list):
        if isinstance(value, list):
            machine.room[0] -= _ITEM_COST * len(value)
        else:
            machine.room[0] -= len(value) if isinstance(value, bytes) else value.nbytes
        if machine.room[0] < 0:
            raise InputError("it decodes to far more bytes than it has")
    return value


def _is_key(key: Any) -> bool:
    # Hashing a tuple nested a million deep would overflow the C stack.
    is_small = isinstance(key, int) and -_MAX_KEY < key < _MAX_KEY
    return is_small or isinstance(key, str | bytes | float)


def _pop(stack: list, start: int) -> list:
    items = stack[start:]
    del stack[start:]
    return items


def _pop_last(stack: list, count: int) -> tuple:
    if len(stack) < count:
        raise IndexError(f"{count} items are taken from a stack of {len(stack)}")
    return tuple(_pop(stack, len(stack) - count))


def _extend(target: Any, items: list) -> None:
    if type(target) is not list:
        raise TypeError(f"items are appended to {type(target).__name__}, not to a list")
    target.extend(items)


def _update(target: Any, items: list) -> None:
    if type(target) is not dict:
        raise TypeError(f"items are set in {type(target).__name__}, not in a dict")
    if not all(map(_is_key, items[::2])):
        raise TypeError("a key of a dict must be text or a number of at most 60 bits")
    target.update(zip(items[::2], items[1::2], strict=True))


def _find_global(machine: _Machine, name: str) -> Global:
    if name not in machine.allowed:
        raise InputError(
            f"refused global {name[:80]!r}, only arrays and plain containers are allowed"
        )
    return Global(name)


def _reduce(machine: _Machine, target: Any, arguments: Any) -> Any:
    function = machine.allowed.get(target.name) if type(target) is Global else None
    if function is None or type(arguments) is not tuple:
        raise InputError("refused a call of something that makes no array")
    if len(arguments) > _MAX_ARGUMENTS:
        raise InputError(f"refused a call with {len(arguments)} arguments")
    # Replacement functions copy list arguments, so each call is charged for them.
    for each in arguments:
        if type(each) is list:
            _spend(machine, each)
    value = _spend(machine, function(*arguments))
    if type(value) is Pending:
        machine.pending.append(value)
    return value


def _build(machine: _Machine, target: Any, state: Any) -> Any:
    if type(target) is dict:  # an OrderedDict of a PyTorch file: its attributes are dropped
        return target
    if type(target) is not Pending:
        raise InputError(f"refused to set attributes of {type(target).__name__}")
    target.built.append(_spend(machine, target.build(state)))
    return target.built[0]


def _recall(machine: _Machine, key: int) -> Any:
    if key not in machine.memo:
        raise InputError(f"nothing is stored under number {key}")
    value = machine.memo[key]
    return value.built[0] if type(value) is Pending else value


def _carry_out(machine: _Machine, operation: str, argument: Any) -> None:
    """Executes one operation of the pickle machine; the most common operations come first."""
    stack, memo = machine.stack, machine.memo
    match operation:
        case "PUT" if not 0 <= argument < _MAX_KEY:
            raise InputError("something is stored under a number that is not of at most 60 bits")
        case "BINPUT" | "LONG_BINPUT" | "PUT":
            memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET" | "GET":
            stack.append(_recall(machine, argument))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(_pop_last(stack, int(operation[-1])))
        case "REDUCE":
            stack.append(_reduce(machine, *_pop_last(stack, 2)))
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "NEWTRUE" | "NEWFALSE":
            stack.append(operation == "NEWTRUE")
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_TUPLE":
            stack.append(())
        case "EMPTY_DICT":
            stack.append({})
        case "MARK":
            machine.marks.append(len(stack))
        case "TUPLE":
            stack.append(tuple(_pop(stack, machine.marks.pop())))
        case "LIST":
            stack.append(_pop(stack, machine.marks.pop()))
        case "DICT":
            items = _pop(stack, machine.marks.pop())
            stack.append({})
            _update(stack[-1], items)
        case "APPEND" | "APPENDS":
            items = _pop(stack, len(stack) - 1 if operation == "APPEND" else machine.marks.pop())
            _extend(stack[-1], items)
        case "SETITEM" | "SETITEMS":
            items = _pop(stack, len(stack) - 2 if operation == "SETITEM" else machine.marks.pop())
            _update(stack[-1], items)
        case "GLOBAL":
            stack.append(_find_global(machine, argument))
        case "STACK_GLOBAL":
            stack.append(_find_global(machine, " ".join(_pop_last(stack, 2))))
        case "BUILD":
            stack.append(_build(machine, *_pop_last(stack, 2)))
        case "BINPERSID" if machine.persistent_load is not None:
            stack.append(_spend(machine, machine.persistent_load(stack.pop())))
        case _:
            raise InputError(f"refused operation {operation}")


def load(
    stream: BinaryIO,
    *,
    name: str,
    allowed: Mapping[str, Callable[..., Any] | None] = NUMPY,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the next pickle of a stream, and leaves the stream at the pickle's end.

    Text from Python 2 is returned as `str`, with one character for each byte. Arrays are read-only
    views of the bytes in the file, in its byte order. A container may hold itself, as in any
    pickle.

    Args:
      stream: A seekable binary file.
      name: Name of the file in errors.
      allowed: Maps a global, "module name", to its replacement function; None allows the global to
        be mentioned but not called. A mentioned global is returned as `Global`.
      persistent_load: Converts a persistent id (PyTorch's storages) into an object; without it no
        persistent id is allowed.

    Raises:
      ValueError: if the pickle is truncated or damaged, or contains anything other than arrays,
        lists, tuples, dicts, text, bytes and numbers.
    """
    start = stream.tell()
    size = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)

    def read(count: int) -> bytes:
        # A read allocates its full size first, so a false length could fill the memory.
        return stream.read(count if count < size else size)

    machine = _Machine(allowed, persistent_load, [_MAX_GROWTH * size], [], [], {}, [])
    reader = cast("BinaryIO", _Reader(read, stream.readline))
    try:
        for opcode, argument, _ in pickletools.genops(reader):
            if opcode.name in _CONSTANTS:
                machine.stack.append(argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                _carry_out(machine, opcode.name, argument)
        (value,) = machine.stack
        if not all(pending.built for pending in machine.pending):
            raise InputError("an array has no content")
    except _DAMAGE as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(
            f"cannot read {name}: {reason}; the file is truncated, damaged or not what its name "
            "says: fetch it anew from its source"
        ) from error
    return value
