"""Writes binary codes as a DuckDB table, searched exactly by `bit_count(xor(...))`."""

import pathlib

import jax.numpy as jnp
import numpy as np

from quantjax.errors import load_package
from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import BinaryCodec
from quantjax.run import files

_TILE = 1 << 20  # rows inserted at once


def export(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes binary codes as the table `codes` of a DuckDB file: id, class, and words of 64 bits.

    Args:
      index: Codes of a BinaryCodec.
      path: File to be written.

    Returns:
      The file, an example and the recall, which is 1.

    Raises:
      ValueError: if the codes are not binary, or DuckDB gives other answers. Nothing is written
        then.
      ModuleNotFoundError: if duckdb is not installed.
    """
    self_test.check_takes("duckdb", index, (BinaryCodec,), "hamming")
    items.check_names(index)
    duckdb = load_package("duckdb", extra="duckdb", purpose="export to duckdb")
    with files.replacing(path) as scratch:
        scratch.unlink()  # DuckDB takes an empty file for a damaged one
        with duckdb.connect(str(scratch)) as connection:
            _insert(connection, index)
            recall = self_test.check_exact(
                "duckdb", index, lambda *q: _search(connection, index, *q)
            )
    return self_test.Exported((path,), f"{path}: {search_sql(index.codes[0], 10)}", recall)


def search_sql(code: np.ndarray, top_k: int) -> str:
    """Returns the statement that selects the nearest items of a code.

    Args:
      code: Code of the query, [num_bytes] uint8, from `codec.encode`.
      top_k: Number of neighbours; of equal distances the earlier rows come first.
    """
    # bit_count is a TINYINT, whose sum overflows from 128 bits on.
    terms = [
        f"bit_count(xor(word{number}, {word}::UBIGINT))::INTEGER"
        for number, word in enumerate(_words(code[None])[0].tolist())
    ]
    return (
        f"SELECT id, {' + '.join(terms)} AS distance FROM codes ORDER BY distance, rowid "
        f"LIMIT {top_k}"
    )


def _words(codes):
    """Views codes [N, num_bytes] as little-endian words [N, W] of 64 bits."""
    padding = -codes.shape[1] % 8
    return np.ascontiguousarray(np.pad(codes, ((0, 0), (0, padding)))).view("<u8")


def _insert(connection, index):
    num_words = -(-index.codec.num_bytes // 8)
    names = items.class_names(index)
    columns = {"id": "VARCHAR" if items.has_names(index) else "BIGINT"}
    columns |= {"class": "VARCHAR"} if names else {}
    columns |= {f"word{number}": "UBIGINT" for number in range(num_words)}
    described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE TABLE codes ({described})")
    for start in range(0, len(index.codes), _TILE):
        rows = slice(start, start + _TILE)
        values = [index.ids[rows], *([np.array(names[rows], object)] if names else [])]
        values += list(_words(index.codes[rows]).T.copy())
        connection.register("tile", dict(zip(columns, values, strict=True)))
        connection.execute("INSERT INTO codes SELECT * FROM tile")
        connection.unregister("tile")


def _search(connection, index, queries, top_k):
    codes = np.asarray(index.codec.encode(jnp.asarray(queries)))
    answers = [connection.execute(search_sql(code, top_k)).fetchall() for code in codes]
    ids, distances = zip(*(zip(*answer, strict=True) for answer in answers), strict=True)
    return np.array(distances), np.array(ids, index.ids.dtype)
