"""Writes binary codes as SQL of PostgreSQL, searched exactly by `bit_count(a # b)`."""

import pathlib

import numpy as np

from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import BinaryCodec
from quantjax.run import files

# COPY reads these in a column as the end of it, or as the start of an escape.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"
_TILE = 1 << 16  # rows converted at once


def export(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes a file for `psql -f` that makes the table `codes`: id, class, and code bit(bits).

    The table is made in one transaction, and by PostgreSQL 14 or newer, which has `bit_count`.

    Args:
      index: Codes of a BinaryCodec.
      path: File to be written.

    Returns:
      The file and an example; no recall, since no server was asked.

    Raises:
      ValueError: if the codes are not binary.
    """
    self_test.check_takes("postgres", index, (BinaryCodec,), "hamming")
    items.check_names(index)
    bits, classes = index.codec.bits, items.class_names(index)
    kind = "text" if items.has_names(index) else "bigint"
    with files.replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write(
            "\\set ON_ERROR_STOP on\nSET client_encoding = 'UTF8';\nBEGIN;\n"
            f"CREATE TABLE codes (id {kind} PRIMARY KEY, class text, code bit({bits}) NOT NULL);\n"
            "COPY codes (id, class, code) FROM stdin;\n"
        )
        for start in range(0, len(index.codes), _TILE):
            rows = slice(start, start + _TILE)
            keys, codes = index.ids[rows].tolist(), bit_strings(index.codes[rows], bits)
            names = [None] * len(keys) if classes is None else classes[rows]
            for cells in zip(map(_cell, keys), map(_cell, names), codes, strict=True):
                file.write("\t".join(cells) + "\n")
        file.write("\\.\nCOMMIT;\n")
    return self_test.Exported((path,), f"psql -f {path}; {search_sql(index.codes[0], bits, 10)}")


def search_sql(code: np.ndarray, bits: int, top_k: int) -> str:
    """Returns the statement that selects the nearest items of a code.

    Args:
      code: Code of the query, [num_bytes] uint8, from `codec.encode`.
      bits: Length of a code.
      top_k: Number of neighbours; of equal distances the smaller ids come first.
    """
    bit_string = bit_strings(code[None], bits)[0]
    return (
        f"SELECT id, bit_count(code # B'{bit_string}') AS distance FROM codes "
        f"ORDER BY distance, id LIMIT {top_k}"
    )


def bit_strings(codes: np.ndarray, bits: int) -> list[str]:
    """Returns the bits of each code as zeros and ones, the first bit first.

    Args:
      codes: [N, num_bytes] uint8.
      bits: Length of a code.
    """
    digits = np.unpackbits(codes, axis=1, bitorder="little")[:, :bits] + np.uint8(ord("0"))
    return np.ascontiguousarray(digits).view(f"S{bits}").ravel().astype(str).tolist()


def _cell(value):
    return _NULL if value is None else str(value).translate(_ESCAPES)
