"""The items' ids as tensors of a file: whole numbers, or strings as UTF-8 text and where each ends.

Numbers are one tensor `ids`, [N] int64. Strings are `ids.text`, all of them one behind the other,
[bytes] uint8, and `ids.ends`, the place behind the last byte of each, [N] int64.
"""

import itertools
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from quantjax.errors import InputError

Ids = np.ndarray | Sequence[int] | Sequence[str]

# File names that are no UTF-8 come from Python as lone surrogates, and must come back as those.
_CODING = ("utf-8", "surrogatepass")


def id_tensors(ids: Ids | None, num_items: int) -> dict[str, np.ndarray]:
    """Returns ids as the tensors that hold them.

    Args:
      ids: [N] integers that fit in int64, or [N] strings; 0 to N - 1 when None.
      num_items: N.

    Returns:
      The tensors by name.

    Raises:
      ValueError: if ids are others, naming the first, or of another number.
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
        # By item, for NumPy makes one type of several: of the list [1, "a"] two strings.
        items = list(ids)
        shape = (len(items),)
    if shape != (num_items,):
        raise InputError(f"ids must have shape {(num_items,)}, got {shape}")
    if isinstance(items, np.ndarray) or all(map(_fits_int64, items)):
        return {"ids": np.asarray(items, np.int64)}
    if all(isinstance(item, str) for item in items):
        texts = [str(item).encode(*_CODING) for item in items]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return {"ids.text": np.frombuffer(b"".join(texts), np.uint8), "ids.ends": ends}
    valid = (isinstance(item, str) or _fits_int64(item) for item in items)
    row = next((row for row, is_valid in enumerate(valid) if not is_valid), None)
    got = "some of both" if row is None else f"{items[row]!r:.60} in row {row}"
    raise InputError(f"ids must be integers that fit in int64, or strings, got {got}")


def read_ids(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the ids that `id_tensors` made tensors of.

    Args:
      tensors: All tensors of a file, by name.

    Returns:
      Ids, [N] int64, or strings [N] of type object.

    Raises:
      KeyError: if a tensor is missing.
      ValueError: if the tensors are none of `id_tensors`.
    """
    if "ids.text" not in tensors:
        if tensors["ids"].dtype != np.int64:
            raise InputError(f"ids must be int64, got {tensors['ids'].dtype}")
        return tensors["ids"]
    text, ends = tensors["ids.text"], tensors["ids.ends"]
    if text.dtype != np.uint8 or ends.dtype != np.int64 or text.ndim != 1 or ends.ndim != 1:
        raise InputError("ids.text must be uint8 and ids.ends int64, of one axis each")
    places = np.append(0, ends)
    if (places[1:] < places[:-1]).any() or places[-1] != len(text):
        raise InputError(f"ids.ends must rise to {len(text)}, the length of ids.text")
    raw = text.tobytes()
    pairs = itertools.pairwise(places.tolist())
    # As Python's strings, for NumPy's own give each the bytes of the longest.
    return np.array([raw[start:end].decode(*_CODING) for start, end in pairs], object)


def _fits_int64(item):
    is_whole = isinstance(item, numbers.Integral) and not isinstance(item, bool)
    return is_whole and -(2**63) <= item < 2**63
