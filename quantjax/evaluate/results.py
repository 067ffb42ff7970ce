"""Results of an evaluation: numbers with metric ids, as tables and as files.

A run keeps its results in results.json, for people, and the values of single queries beside it, in
safetensors.
"""

import html
import json
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from quantjax import errors
from quantjax.errors import InputError, MissingFileError
from quantjax.run import files
from quantjax.run.paths import user_path

_SCALARS = {str: (str,), int: (int,), float: (float, int)}
_ROWS, _QUERIES = "results.json", "per_query.safetensors"
_WORDS = {
    "aqd": "real query, codes",
    "sqd": "codes on both sides",
    "float": "no codes",
    "hamming": "differing bits",
    "own": "given distances",
}
_COLUMNS = ("name", "distance", "bits", "value", "low", "high")


class Number(NamedTuple):
    """Mean of a metric over the queries, with tie bounds, interval and chance level.

    Attributes:
      metric: Metric id; only numbers of equal id are compared.
      value: Expected over the orders of ties.
      worst: With the order of ties that is worst for each query.
      best: With the best.
      low: Lower end of the 95 % bootstrap interval of `value` over queries; NaN for one query.
      high: Upper end.
      chance: Expected value of a random ranking; NaN for a metric of a set.
      shuffled: Value of the same distances with shuffled database labels, over up to 256 queries:
        near chance, unless the evaluation is wrong. NaN if not measured.
      zeros: Number of queries of value 0, such as without a hit inside the cut; the mean has all.
    """

    metric: str
    value: float
    worst: float
    best: float
    low: float
    high: float
    chance: float
    shuffled: float
    zeros: int

    @property
    def short(self) -> str:
        """Returns the metric's short name: "mAP", "mAP@5000", "p@10"."""
        head = self.metric.partition("|")[0]
        cut = head.removeprefix("map@")
        if cut == head:
            return head
        return "mAP" if cut.startswith("all") else f"mAP@{cut}"

    @property
    def words(self) -> str:
        """Returns the value with its interval as text: "0.974 (0.964 to 0.983)"."""
        # A single query has no interval.
        if np.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Results(NamedTuple):
    """Results of one evaluation; `str` and notebooks show a table.

    Attributes:
      name: Name of the evaluated method or codes.
      distance: "aqd" real query against code, "sqd" code against code, "hamming" differing bits,
        "float" without codes, "own" a given matrix, for which the fields on codes are None.
      numbers: One number per measure, in the order of the measures.
      per_query: Expected value of every query, [Q] float64, by metric id.
      bits: Code length.
      num_bytes: Bytes stored per item.
      num_queries: Queries, all of them in every mean.
      num_database: Items searched.
      zero_queries: Queries without a relevant item; each counts as 0.
      distinct_codes: Number of distinct codes in the database.
      code_entropy: Entropy of a random item's code, in bits, at most log2 of the number of items.
      metric_of_codec: Metric of the codec: "l2", "ip", "cosine", "hamming" or a custom codec's.
      task_digest: Hash of the labels of queries (in order) and items (unordered) and of `task`;
        only results of equal tasks are compared.
      seconds: Wall time.
      device: Device that computed the distances.
      versions: Versions of quantjax, jax and numpy.
    """

    name: str
    distance: str
    numbers: tuple[Number, ...]
    per_query: dict[str, np.ndarray]
    bits: int | None
    num_bytes: int | None
    num_queries: int
    num_database: int
    zero_queries: int
    distinct_codes: int | None
    code_entropy: float | None
    metric_of_codec: str | None
    task_digest: str
    seconds: float
    device: str
    versions: dict[str, str]

    @property
    def metric(self) -> str:
        """Returns the metric id of the first number."""
        return self.numbers[0].metric

    @property
    def value(self) -> float:
        """Returns the value of the first number."""
        return self.numbers[0].value

    def rows(self) -> list[dict[str, Any]]:
        """Returns one flat dict for JSON per number.

        Rows leave out the values of single queries and the wall time, so that equal runs give equal
        rows.
        """
        about = self._asdict()
        for key in ("name", "numbers", "per_query", "seconds"):
            del about[key]
        rows = []
        for number in self.numbers:
            # JSON has no NaN: a number that was not measured is left out.
            known = {k: v for k, v in number._asdict().items() if k == "metric" or not np.isnan(v)}
            rows.append({"name": self.name, **known, **about})
        return rows

    @property
    def distance_in_words(self) -> str:
        """Returns a description of the distance: "real query, codes" for "aqd"."""
        return _WORDS.get(self.distance, self.distance)

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame of `rows`, a row for each number; needs quantjax[notebook]."""
        pandas = errors.load_package("pandas", extra="notebook", purpose="a frame")
        return pandas.DataFrame(self.rows())

    def to_latex(self, columns: Sequence[str] = _COLUMNS) -> str:
        r"""Returns a LaTeX table with `\toprule` (package booktabs), a row for each number.

        Args:
          columns: Columns of `to_frame`, in this order.

        Raises:
          ValueError: if a column is not there.
          ModuleNotFoundError: if pandas is not installed.
        """
        frame = self.to_frame()
        missing = [column for column in columns if column not in frame]
        if missing:
            raise InputError(f"no column {missing[0]!r}; there are {', '.join(frame)}")
        return frame[[*columns]].to_latex(index=False, float_format="%.3f", escape=True)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{number.short} {number.words}" for number in self.numbers)
        return f"<Results {self.name!r}, {self.distance_in_words}: {numbers}; {self._sizes()}>"

    def _repr_html_(self) -> str:
        """Returns an HTML table for notebooks, followed by the metric ids."""
        cells = [
            (
                number.short,
                number.words,
                f"{number.worst:.3f} to {number.best:.3f}",
                _or_dash(number.chance),
            )
            for number in self.numbers
        ]
        heads = ("", "value (95 % interval)", "ties, worst to best", "chance")
        lines = [_html_row("th", heads), *(_html_row("td", row) for row in cells)]
        ids = "<br>".join(html.escape(number.metric) for number in self.numbers)
        return (
            f"<p><b>{html.escape(self.name)}</b>, {self.distance_in_words}: {self._sizes()}</p>"
            f"<table>{''.join(lines)}</table><p><small><code>{ids}</code></small></p>"
        )

    def _codes(self):
        if self.bits is None:
            return ""
        return (
            f" of {self.num_bytes} bytes ({self.bits} bits), {self.distinct_codes} distinct codes, "
            f"entropy {self.code_entropy:.2f} bits"
        )

    def _sizes(self):
        codes = "" if self.bits is None else f" of {self.bits} bits"
        return f"{self.num_queries:,} queries, {self.num_database:,} items{codes}"

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.num_queries} queries ({self.zero_queries} without a relevant "
            f"item), {self.num_database} items{self._codes()}"
        ]
        width = max(len(number.metric) for number in self.numbers)
        lines += [
            f"{number.metric:<{width}}  {number.value:.4f}  ties {number.worst:.4f} to "
            f"{number.best:.4f}  95 % {number.low:.4f} to {number.high:.4f}  "
            f"chance {_or_dash(number.chance)}  shuffled {_or_dash(number.shuffled)}"
            for number in self.numbers
        ]
        return "\n".join(lines)


def _html_row(tag, cells):
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _or_dash(value):
    return "-" if np.isnan(value) else f"{value:.4f}"


def write_results(
    folder: str | pathlib.Path,
    results: Sequence[Results],
    about: dict[str, Any] | Sequence[dict[str, Any]],
) -> None:
    """Writes results.json, a list of rows, and the query values of each row.

    Args:
      folder: Existing folder.
      results: In the order of the rows; a row's "result" is the number of its result.
      about: Further entries of each row (JSON), such as the protocol; a dict for all rows, or one
        for each result.

    Raises:
      ValueError: if `about` has a key of the rows.
    """
    folder = user_path(folder)
    abouts = [about] * len(results) if isinstance(about, dict) else about
    # Several rows may be of one result: its number joins them again when they are read.
    rows = [
        ({**row, "result": i}, further)
        for i, (result, further) in enumerate(zip(results, abouts, strict=True))
        for row in result.rows()
    ]
    taken = {key for row, further in rows for key in row.keys() & further.keys()}
    if taken:
        raise InputError(f"about must not have the keys of rows, got {', '.join(sorted(taken))}")
    rows = [{**row, **further} for row, further in rows]
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
    folder = user_path(folder)
    for name in (_ROWS, _QUERIES):
        if not (folder / name).exists():
            raise MissingFileError(f"{folder} has no {name}; has the run come to its end?")
    claim = f"{folder} holds no results that belong together"
    with files.reading(claim, "evaluate the run again"):
        rows = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
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
    # Both files are replaced one after the other: a crash between leaves two runs mixed.
    if not np.isclose(per_query.mean(), row["value"], rtol=1e-9, atol=1e-12):
        raise InputError(f"row {row['name']} has {row['value']}, and values of another mean")


def _check_types(kind, fields):
    for name, due in typing.get_type_hints(kind).items():
        if due in _SCALARS and name in fields and type(fields[name]) not in _SCALARS[due]:
            raise InputError(f"{name} must be of type {due.__name__}, got {fields[name]!r:.40}")


def _with_row(results, row, per_query):
    # A file that was edited by hand must not give results of wrong types.
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
