"""Renders the bench of `experiments/field.py` as tables: searches, code lengths, ranks."""

import pathlib

import numpy as np

from . import hypotheses
from .field_results import BITS, DATA, SEARCHES, best_first, rankings, read, values_of

_LENGTHS = (16, 32, 64)
_PAIRED = SEARCHES[:2]
"""Searches with the distance to the best method, whose seeds had the same draws of classes."""


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
    return _mean(values) if values else ""


def _mean(values):
    """Returns a mean with half the width of its 95 % interval, as text."""
    half = hypotheses.half_width(values)
    return f"{np.mean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _searches(bench):
    """Returns the table of a data set at 32 bits: a line for each method, and one for chance."""
    head = ["method"]
    for search in SEARCHES:
        head += [_words(search)] + ["behind the best"] * (search in _PAIRED)
    head += ["real, seen", "real, unseen", "class-id code, seen", "seeds", "CPU time", "commit"]
    rows = []
    for method in best_first(bench):
        file = bench.files[method]
        runs = [run for run in file["runs"] if run["bits"] == BITS and "failed" not in run]
        failed = [run["failed"] for run in file["runs"] if "failed" in run]
        cells = [_words(method)]
        for search in SEARCHES:
            cells += [_cell(file, search)] + [_behind(bench, method, search)] * (search in _PAIRED)
        names = "seen_in_seen float", "unseen_in_unseen float", "seen_in_seen class-id code"
        cells += [_cell(file, name) for name in names]
        seconds = _seconds(runs) if runs else f"failed: {failed[0]}"
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        rows.append([*cells, str(len(runs)), seconds, commits])
    chances = {search: _chance(bench, search) for search in SEARCHES}
    columns = [chances.get(name.replace(" ", "_"), "") for name in head[1:]]
    rows.append(["chance", *columns])
    return f"**{DATA[bench.data]}, 32 bits**\n\n" + _table(head, rows)


def _behind(bench, method, search):
    """Returns how far a method is behind the one of the best mean, paired by seed, as text."""
    best = values_of(bench.files[best_first(bench, search)[0]], search)
    own = values_of(bench.files[method], search)
    gaps = [best[seed] - own[seed] for seed in sorted(best.keys() & own.keys())]
    return _mean(gaps) if any(gaps) else ""


def _seconds(runs):
    """Returns the processor's seconds of the fastest run; where not kept, those of the clock."""
    used = [run["cpu_seconds"] for run in runs if "cpu_seconds" in run]
    clock = f"({min(run['seconds'] for run in runs):.0f} s)"
    return f"{min(used):.0f} s" if used else clock


def _chance(bench, name):
    """Returns the mean over seeds of chance in a search; each method met the same chance."""
    found = {
        run["seed"]: row["chance"]
        for file in bench.files.values()
        for run in file["runs"]
        for row in run.get("rows", [])
        if row["name"] == name and row["chance"] is not None
    }
    return f"{np.mean([*found.values()]):.3f}" if found else ""


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
