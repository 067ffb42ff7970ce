"""Renders the bench of `experiments/field.py` as tables: searches, code lengths, ranks."""

import pathlib

import numpy as np

from . import hypotheses
from .field_results import BITS, DATA, SEARCHES, best_first, rankings, read, values_of

_LENGTHS = (16, 32, 64)


def render(results: pathlib.Path) -> str:
    """Returns the tables of the bench as Markdown, "" where none of its entries was run.

    Args:
      results: Folder of the ledger's files.
    """
    benches = read(results)
    parts = [part for bench in benches for part in (_searches(bench), _lengths(bench))]
    return "\n".join(part for part in [*parts, *map(_ranks, rankings(benches))] if part)


def _cell(file, name, bits=BITS):
    """Returns mean and half-width over seeds as text, "" if there is no value."""
    values = [*values_of(file, name, bits).values()]
    if not values:
        return ""
    half = hypotheses.half_width(values)
    return f"{np.mean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _searches(bench):
    """Returns the table of a data set at 32 bits: a line for each method, and one for chance."""
    head = ["method", *(_words(each) for each in SEARCHES)]
    head += ["real, seen", "real, unseen", "class-id code, seen", "seeds", "CPU time", "commit"]
    rows = []
    for method in best_first(bench):
        file = bench.files[method]
        runs = [run for run in file["runs"] if run["bits"] == BITS and "failed" not in run]
        failed = [run["failed"] for run in file["runs"] if "failed" in run]
        seconds = _seconds(runs) if runs else f"failed: {failed[0]}"
        names = [*SEARCHES, "seen_in_seen float", "unseen_in_unseen float"]
        cells = [_cell(file, name) for name in [*names, "seen_in_seen class-id code"]]
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        rows.append([_words(method), *cells, str(len(runs)), seconds, commits])
    rows.append(["chance", *(_chance(bench, name) for name in SEARCHES), *[""] * 6])
    return f"**{DATA[bench.data]}, 32 bits**\n\n" + _table(head, rows)


def _seconds(runs):
    """Returns the processor's seconds of the fastest run; where not kept, those of the clock."""
    used = [run["cpu_seconds"] for run in runs if "cpu_seconds" in run]
    clock = f"({min(run['seconds'] for run in runs):.0f} s)"
    return f"{min(used):.0f} s" if used else clock


def _chance(bench, name):
    file = bench.files[best_first(bench)[0]]
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
    searches = SEARCHES[:2]
    columns = [(search, bits) for search in searches for bits in lengths]
    head = ["method", *(f"{_words(search)}, {bits}" for search, bits in columns)]
    rows = [
        [_words(method), *(_cell(bench.files[method], *column) for column in columns)]
        for method in best_first(bench)
    ]
    return f"**{DATA[bench.data]}, by bits**\n\n" + _table(head, rows)


def _ranks(ranking):
    """Returns the table of a ranking."""
    order = np.argsort(ranking.ranks[SEARCHES[0]], kind="stable")
    rows = [
        [_words(ranking.methods[i]), *(f"{ranking.ranks[each][i]:.1f}" for each in SEARCHES)]
        for i in order
    ]
    rows.append(["Friedman's p", *(f"{ranking.p_values[each]:.2g}" for each in SEARCHES)])
    text = (
        f"Mean ranks of {len(rows) - 1} methods over {ranking.num_blocks} blocks, a block being a "
        f"data set and a seed. By Nemenyi's test at 5 % two methods differ if their ranks are more "
        f"than {ranking.gap:.1f} apart.\n"
    )
    title = "; ".join(DATA[data].partition(",")[0] for data in ranking.data)
    head = ["method", *map(_words, SEARCHES)]
    return f"**Ranks, 32 bits: {title}**\n\n{_table(head, rows)}\n{text}"


def _words(name):
    return name.replace("_", " ")
