"""Writes and reads results: results.json for people, values of single queries in safetensors."""

import json
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantjax.errors import InputError, MissingFileError
from quantjax.evaluate.results import Number, Results
from quantjax.run import files

_SCALARS = {str: (str,), int: (int,), float: (float, int)}
_ROWS, _QUERIES = "results.json", "per_query.safetensors"


def write_results(
    folder: str | pathlib.Path, results: Sequence[Results], about: dict[str, Any]
) -> None:
    """Writes results.json, a list of rows, and the query values of each row.

    Args:
      folder: Existing folder.
      results: In the order of the rows; a row's "result" is the number of its result.
      about: Further entries of each row (JSON), such as the protocol.

    Raises:
      ValueError: if `about` has a key of the rows.
    """
    folder = pathlib.Path(folder)
    rows = [{**row, "result": i} for i, result in enumerate(results) for row in result.rows()]
    taken = {key for row in rows for key in row} & about.keys()
    if taken:
        raise InputError(f"about must not have the keys of rows, got {', '.join(sorted(taken))}")
    rows = [{**row, **about} for row in rows]
    values = [values for result in results for values in result.per_query.values()]
    # Values first: a new results.json must not appear before the values of its rows.
    files.write_arrays(folder / _QUERIES, {str(i): each for i, each in enumerate(values)})
    files.write_text(folder / _ROWS, json.dumps(rows, indent=2) + "\n")


def read_results(folder: str | pathlib.Path) -> list[Results]:
    """Reads the results of a run, to compare them with another run's.

    Args:
      folder: The run's workdir.

    Returns:
      The results; their `seconds`, which are not written, are NaN.

    Raises:
      FileNotFoundError: if the folder has no results.
      ValueError: if the files are damaged or of different runs.
    """
    folder = pathlib.Path(folder)
    for name in (_ROWS, _QUERIES):
        if not (folder / name).exists():
            raise MissingFileError(f"{folder} has no {name}; has the run come to its end?")
    claim = f"{folder} holds no results that belong together"
    with files.reading(claim, "evaluate the run again"):
        rows = json.loads((folder / _ROWS).read_text())
        arrays, _ = files.read_arrays(folder / _QUERIES)
        values = [arrays[str(i)] for i in range(len(rows))]
        results: dict[int, Results] = {}
        for row, per_query in zip(rows, values, strict=True):
            _check_values(row, per_query)
            results[row["result"]] = _with_row(results.get(row["result"]), row, per_query)
    return list(results.values())


def _check_values(row, per_query):
    due = (row["num_queries"],)
    if per_query.shape != due or per_query.dtype != np.float64:
        raise InputError(
            f"row {row['name']} has values {per_query.dtype} {per_query.shape}, due float64 {due}"
        )
    if not np.isclose(per_query.mean(), row["value"], rtol=1e-9, atol=1e-12):
        raise InputError(f"row {row['name']} has {row['value']}, and values of another mean")


def _check_types(kind, fields):
    for name, due in typing.get_type_hints(kind).items():
        if due in _SCALARS and name in fields and type(fields[name]) not in _SCALARS[due]:
            raise InputError(f"{name} must be of type {due.__name__}, got {fields[name]!r:.40}")


def _with_row(results, row, per_query):
    for kind in (Number, Results):
        _check_types(kind, row)
    number = Number(**{field: row.get(field, np.nan) for field in Number._fields})
    if results is None:
        known = {field: row[field] for field in Results._fields if field in row}
        results = Results(**known, numbers=(), per_query={}, seconds=np.nan)
    return results._replace(
        numbers=(*results.numbers, number),
        per_query={**results.per_query, number.metric: per_query},
    )
