"""Implements `quantjax runs`: lists runs in a table, and compares two query by query."""

import argparse
import csv
import json
import sys

from quantjax import report
from quantjax.run import console
from quantjax.run.paths import user_path

_NUMBERS = (
    "name", "distance", "bits", "num_bytes", "metric", "value", "low", "high", "worst", "best",
    "chance",
)  # fmt: skip


_STATE = ("step", "checkpoint")
"""What a row of results.json says under "run" about the state that was measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    text = "folder of a run, or folder of such folders"
    parser.add_argument("folders", metavar="FOLDER", type=user_path, nargs="+", help=text)
    form = parser.add_mutually_exclusive_group()
    text = "print one JSON object in place of a table, with all settings and results"
    form.add_argument("--json", action="store_true", help=text)
    text = "print comma-separated values in place of a table, a line for each result"
    form.add_argument("--csv", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    runs = [report.read_run(workdir) for workdir in report.find_runs(arguments.folders)]
    names = report.short_names([each.workdir for each in runs])
    settings = _settings(runs)
    # Of more than two, nobody said which are to be compared.
    compared = []
    if len(runs) == 2 and not arguments.csv:
        compared = report.compare_results(runs[0].results, runs[1].results)
    if arguments.json:
        print(json.dumps(_as_json(names, runs, settings, compared)))
    elif arguments.csv:
        _write_csv(names, runs, settings)
    else:
        _print_table(names, runs, settings)
        _print_differences(names, compared)


def _settings(runs):
    """Returns the settings that differ; of different experiments, those that all of them have."""
    # Runs without a config, as those of `quantjax train`, differ in none.
    configs = [each.config for each in runs if each.config]
    keys = [*report.differing(configs)]
    if len({each.experiment for each in runs}) > 1:
        keys = [key for key in keys if all(key in config for config in configs)]
    return {key: [each.config.get(key, "-") for each in runs] for key in keys}


def _as_json(names, runs, settings, compared):
    listed = []
    for name, each in zip(names, runs, strict=True):
        fields = {**each._asdict(), "workdir": str(each.workdir), "results": each.rows}
        del fields["rows"]
        listed.append({"run": name, **fields})
    differences = [
        {"name": other.name, "distance": other.distance}
        | ({"missing": found} if isinstance(found, str) else found._asdict())
        for other, found in compared
    ]
    return {"runs": listed, "differing": sorted(settings), "differences": differences}


def _write_csv(names, runs, settings):
    # The prefix keeps a setting apart from a number of the same name, such as bits.
    keys = [f"config.{key}" for key in settings]
    about = ("run", "experiment", "status", "epochs", "num_epochs", "written")
    heads = [*about, *keys, *_NUMBERS, *_STATE]
    writer = csv.DictWriter(sys.stdout, heads, lineterminator="\n")
    writer.writeheader()
    for name, each, *values in zip(names, runs, *settings.values(), strict=True):
        fields = {key: each._asdict().get(key) for key in about} | {"run": name}
        fields |= dict(zip(keys, values, strict=True))
        # A run without results still has its line.
        for row in each.rows or [{}]:
            facts = row.get("run", {})
            numbers = {key: row.get(key) for key in _NUMBERS}
            writer.writerow(fields | numbers | {key: facts.get(key) for key in _STATE})


def _print_table(names, runs, settings):
    """Prints a line for each run: its first result, its status and its differing settings."""
    columns = {"run": names}
    if len({each.experiment for each in runs}) > 1:
        columns["experiment"] = [each.experiment or "-" for each in runs]
    # First, since many settings make a line longer than a terminal is wide.
    columns["result (95 % interval)"] = [_result(each) for each in runs]
    columns |= {"status": [_status(each) for each in runs], **settings}
    cells = [[head, *map(str, column)] for head, column in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    for line in zip(*cells, strict=True):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.say("  ".join(padded).rstrip())
    ids = {each.results[0].metric: None for each in runs if each.results}
    if ids:
        console.say(f"metrics: {', '.join(ids)}")


def _result(run):
    if not run.results:
        return "-"
    number = run.results[0].numbers[0]
    return f"{number.short} {number.words}"


def _status(run):
    # A run without provenance, as of an older version, has no "run".
    if any((row.get("run") or {}).get("changed_code") for row in run.rows):
        return f"{run.status}, measured by other code"
    if run.status != "unfinished" or run.num_epochs is None:
        return run.status
    when = f" at {run.written}" if run.written else ""
    return f"unfinished, {run.epochs} of {run.num_epochs} epochs{when}"


def _print_differences(names, compared):
    """Prints the difference of each result of the second run to that of the first."""
    if compared:
        console.say(f"\n{names[1]} minus {names[0]}, query by query (95 % interval):")
    for other, found in compared:
        what = f"{other.name}, {other.distance_in_words}: {other.numbers[0].short}"
        if isinstance(found, str):
            console.say(f"{what} not compared: {found}")
            continue
        console.say(
            f"{what} {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}), "
            f"p {found.p_value:.4f}"
        )
