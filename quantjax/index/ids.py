"""Converts the ids of items, whole numbers or strings, to tensors of a file and back.

Numbers are one tensor `ids`, [N] int64. Strings are two tensors: `ids.text`, [bytes] uint8, holds
all strings in a row as UTF-8, and `ids.ends`, [N] int64, the position after the last byte of each.
"""

import itertools
import numbers
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from quantjax.errors import InputError

Ids = np.ndarray | Sequence[int] | Sequence[str]

# Python gives file names that are not UTF-8 as lone surrogates; they must survive save and load.
_CODING = ("utf-8", "surrogatepass")
_BLOCK = 1 << 16  # strings that are copied from a file at once


def id_tensors(ids: Ids | None, num_items: int) -> dict[str, np.ndarray]:
    """Converts ids to the tensors of a file.

    Args:
      ids: [N] integers that fit in int64, or [N] strings; 0 to N - 1 when None.
      num_items: N.

    Returns:
      The tensors by name.

    Raises:
      ValueError: if an id is neither such an integer nor a string (the first is named), or the
        number of ids is not N.
    """
    if ids is None:
        return {"ids": np.arange(num_items, dtype=np.int64)}
    if hasattr(ids, "dtype"):
        ids = np.asarray(ids)
        shape, items = ids.shape, None
        if ids.dtype.kind in "iu" and np.can_cast(ids.dtype, np.int64):
            items = ids.astype(np.int64)
        else:
            items = ids.tolist()
    else:
        # Item by item: NumPy would convert mixed items to one type, [1, "a"] to two strings.
        items = list(ids)
        shape = (len(items),)
    if shape != (num_items,):
        raise InputError(f"ids must have shape {(num_items,)}, got {shape}")
    if isinstance(items, np.ndarray) or all(map(_fits_int64, items)):
        return {"ids": np.asarray(items, np.int64)}
    if all(isinstance(item, str) for item in items):
        texts = [str(item).encode(*_CODING) for item in items]
        # Ends alone: a text starts where the one before it ends.
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return {"ids.text": np.frombuffer(b"".join(texts), np.uint8), "ids.ends": ends}
    valid = (isinstance(item, str) or _fits_int64(item) for item in items)
    row = next((row for row, is_valid in enumerate(valid) if not is_valid), None)
    got = "some of both" if row is None else f"{items[row]!r:.60} in row {row}"
    raise InputError(f"ids must be integers that fit in int64, or strings, got {got}")


def read_ids(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Converts the tensors of `id_tensors` back to ids.

    Args:
      tensors: All tensors of a file, by name.

    Returns:
      Ids, [N] int64, or strings [N] of type object.

    Raises:
      KeyError: if a tensor is missing.
      ValueError: if `id_tensors` cannot have made the tensors.
    """
    if "ids.text" not in tensors:
        if tensors["ids"].dtype != np.int64:
            raise InputError(f"ids must be int64, got {tensors['ids'].dtype}")
        return tensors["ids"]
    # As Python strings: NumPy's fixed-width strings would all be as long as the longest.
    return np.fromiter(iterate(tensors), object, len(tensors["ids.ends"]))


def iterate(tensors: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yields the strings of `id_tensors` one by one, so that they need not all be in memory.

    Args:
      tensors: All tensors of a file, by name; they may be memory maps.

    Raises:
      KeyError: if a tensor is missing.
      ValueError: if `id_tensors` cannot have made the tensors.
    """
    text, ends = tensors["ids.text"], tensors["ids.ends"]
    if text.dtype != np.uint8 or ends.dtype != np.int64 or text.ndim != 1 or ends.ndim != 1:
        raise InputError("ids.text must be uint8 and ids.ends int64, of one axis each")
    if (ends[1:] < ends[:-1]).any() or (ends[:1] < 0).any() or [*ends[-1:], 0][0] != len(text):
        raise InputError(f"ids.ends must rise to {len(text)}, the length of ids.text")
    for first in range(0, len(ends), _BLOCK):
        start = int(ends[first - 1]) if first else 0
        places = [0, *(ends[first : first + _BLOCK] - start).tolist()]
        raw, pairs = text[start : start + places[-1]].tobytes(), itertools.pairwise(places)
        if raw.isascii():  # half the time: one conversion for all, as a byte is a character
            whole = raw.decode()
            yield from (whole[a:b] for a, b in pairs)
        else:
            yield from (raw[a:b].decode(*_CODING) for a, b in pairs)


def _fits_int64(item):
    is_whole = isinstance(item, numbers.Integral) and not isinstance(item, bool)
    return is_whole and -(2**63) <= item < 2**63
