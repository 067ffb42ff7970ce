"""Makes, checks, joins and filters the tensors of an index that have a row for each item.

The columns are `codes`, the ids (see `index.ids`), and maybe `vectors` and `labels`.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.index import ids
from quantjax.quantizers import ClassCodec, Codec, FloatCodec
from quantjax.run import tensors
from quantjax.run.tensors import Blocks

Columns = Mapping[str, np.ndarray]

NAMES = ("codes", "ids", "ids.text", "ids.ends", "vectors", "labels")
"""Tensors that are columns; the others belong to the codec or to inverted lists."""

_LARGEST = np.finfo(np.float16).max


def make(
    codes: Any, given_ids: ids.Ids | None, vectors: Any = None, labels: Any = None
) -> dict[str, np.ndarray]:
    """Converts the values of N items to columns.

    Args:
      codes: [N, num_bytes] uint8.
      given_ids: [N] integers or strings; 0 to N - 1 when None.
      vectors: [N, D] real numbers, which are rounded to float16, or None.
      labels: [N] class numbers, or None.

    Raises:
      ValueError: if the values have no such types, or not one row each.
    """
    # A single number gets an axis, so that the error of a wrong shape is ours.
    codes = np.atleast_1d(np.asarray(codes))
    columns = {"codes": codes, **ids.id_tensors(given_ids, len(codes))}
    if vectors is not None:
        vectors = np.asarray(vectors)
        if vectors.dtype.kind != "f":
            raise InputError(f"vectors must be of real numbers, got {vectors.dtype}")
        with np.errstate(over="ignore"):  # `check` names the row
            columns["vectors"] = vectors.astype(np.float16, copy=False)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise InputError(f"labels must be class numbers, got {labels.dtype}")
        columns["labels"] = labels.astype(np.int64)
    return columns


def check(columns: Columns, codec: Codec, num_classes: int) -> None:
    """Raises ValueError if columns do not fit the codec or each other.

    Args:
      columns: See `make`; they may come from a damaged file.
      codec: Codec of the codes.
      num_classes: Labels must be below it; -1 stands for an unknown class.
    """
    check_codes(codec, columns["codes"])
    num_items = len(columns["codes"])
    for name in ("ids", "ids.ends", "labels"):
        x = columns.get(name)
        if x is not None and x.shape != (num_items,):
            name = name.removesuffix(".ends")
            raise InputError(f"{name} must have shape {(num_items,)}, got {x.shape}")
    labels = columns.get("labels", np.zeros(0, np.int64))
    if labels.dtype != np.int64:
        raise InputError(f"labels must be int64, got {labels.dtype}")
    if labels.size and not -1 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"labels must be -1 to {num_classes - 1}, numbers of classes, got {labels.min()} to "
            f"{labels.max()}"
        )
    if "vectors" in columns:
        _check_vectors(columns["vectors"], num_items)


def check_codes(codec: Codec, codes: np.ndarray) -> None:
    """Raises ValueError, with the first bad row, if a codec cannot have made the codes."""
    if codes.dtype != np.uint8 or codes.shape[1:] != (codec.num_bytes,):
        raise InputError(
            f"codes must be uint8 [N, {codec.num_bytes}], got {codes.dtype} {codes.shape}"
        )
    # Distances count bits of whole bytes, so unused bits must not differ.
    if codec.bits % 8 and (codes[:, -1] >> codec.bits % 8).any():
        raise InputError(f"codes must have zeros behind their {codec.bits} bits")
    if isinstance(codec, FloatCodec):
        due = "finite numbers"

        def are_wrong(block):
            return ~np.isfinite(np.ascontiguousarray(block).view("<f4")).all(axis=1)
    elif isinstance(codec, ClassCodec):
        due = f"classes 0 to {codec.num_classes - 1}"

        def are_wrong(block):
            return np.asarray(codec.class_ids(jnp.asarray(block))) >= codec.num_classes
    else:
        return
    # Block by block, since the codes may be larger than the memory.
    blocks = tensors.row_ranges(len(codes), codec.num_bytes)
    rows = np.flatnonzero(np.concatenate([[], *(are_wrong(codes[rows]) for rows in blocks)]))
    if rows.size:
        raise InputError(
            f"codes must be of {due}, got others in row {rows[0]} ({rows.size} of {len(codes)} "
            "rows)"
        )


def _check_vectors(vectors, num_items):
    if vectors.ndim != 2 or len(vectors) != num_items or vectors.dtype != np.float16:
        raise InputError(
            f"vectors must be float16 [{num_items}, D], got {vectors.dtype} {vectors.shape}"
        )
    for rows in tensors.row_ranges(num_items, vectors[:1].nbytes):
        wrong = np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1))
        if wrong.size:
            raise InputError(
                f"vectors must be finite and at most {_LARGEST:,.0f}, got others in row "
                f"{rows.start + wrong[0]}"
            )


def check_unique(tables: Sequence[Columns]) -> None:
    """Raises ValueError, with the first of them, if ids repeat within or between tables.

    Args:
      tables: Columns of each table.
    """
    if all("ids" in table for table in tables):
        numbers = np.sort(np.concatenate([table["ids"] for table in tables]))
        repeated = numbers[1:][numbers[1:] == numbers[:-1]].tolist()
    else:
        repeated = _repeated_texts(tables)
    if repeated:
        more = f" ({len(repeated)} in all)" if len(repeated) > 1 else ""
        raise InputError(f"ids must differ, got {repeated[0]!r} twice{more}")


def _repeated_texts(tables):
    # Hashes first: eight bytes an item, where a set of ten million names would take a gigabyte.
    def texts():
        return itertools.chain.from_iterable(map(ids.iterate, tables))

    hashes = np.sort(np.fromiter(map(hash, texts()), np.int64))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return []
    # Two names may share a hash, so the suspects are compared as texts.
    counts = collections.Counter(text for text in texts() if hash(text) in suspects)
    return [text for text, count in counts.items() if count > 1]


def joined(tables: Sequence[Columns]) -> dict[str, Blocks]:
    """Joins tables to one, block by block.

    Args:
      tables: Checked columns of each table, at least one; they may be memory maps.

    Returns:
      Columns of all items, in the order of the tables.

    Raises:
      ValueError: if only some tables have a column, widths of vectors differ, or an id repeats.
    """
    # A table without items has ids of no type, and need not agree with the others.
    tables = [table for table in tables if len(table["codes"])] or tables[:1]
    first = tables[0]
    for table in tables:
        if first.keys() != table.keys():
            raise InputError(f"all items must have {_named(first)}, got some with {_named(table)}")
        for name in ("codes", "vectors"):
            if name in first and first[name].shape[1:] != table[name].shape[1:]:
                raise InputError(
                    f"{name} must be {first[name].shape[1]} wide, got {table[name].shape[1]}"
                )
    check_unique(tables)
    columns = {}
    for name, x in first.items():
        shape = (sum(len(table[name]) for table in tables), *x.shape[1:])
        columns[name] = Blocks(x.dtype, shape, _blocks(tables, name))
    return columns


def _named(columns):
    words = {"ids": "integer ids", "ids.text": "strings as ids"}
    return ", ".join(
        words.get(name, name) for name in NAMES if name in columns and name != "ids.ends"
    )


def _blocks(tables: Sequence[Columns], name: str) -> Iterable[np.ndarray]:
    offset = 0
    for table in tables:
        for rows in tensors.row_ranges(len(table[name]), table[name][:1].nbytes):
            # Ends of texts count from the first byte of their table.
            yield table[name][rows] + offset if name == "ids.ends" else table[name][rows]
        offset += len(table.get("ids.text", ()))


def kept(columns: Columns, mask: np.ndarray) -> dict[str, np.ndarray | Blocks]:
    """Returns the columns of the items for which a mask is set.

    Args:
      columns: Checked columns, which may be memory maps.
      mask: [N] bool.
    """
    found: dict[str, np.ndarray | Blocks] = {}
    for name, x in columns.items():
        if name in ("ids.text", "ids.ends"):
            continue
        found[name] = Blocks(x.dtype, (int(mask.sum()), *x.shape[1:]), _kept_blocks(x, mask))
    if "ids.text" in columns:
        texts = itertools.compress(ids.iterate(columns), mask)
        found |= ids.id_tensors(list(texts), int(mask.sum()))
    return found


def _kept_blocks(x, mask):
    for rows in tensors.row_ranges(len(x), x[:1].nbytes):
        yield x[rows][mask[rows]]
