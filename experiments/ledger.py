"""Ledger of results: runs experiments, records their settings and numbers, and renders tables.

    python -m experiments.ledger run NAME ... --bits 16 32 48 --seeds 0 1 2
    python -m experiments.ledger tune NAME ...
    python -m experiments.ledger table

NAME is an experiment file of this folder or the path of another (my/file.py), or FILE.ABLATION.
`run` trains for every length and seed, measures on the queries, and writes
experiments/results/NAME.json; what is there already is done again only with --again. `tune` tries
the settings of `experiments.hypotheses.SETTINGS` by validation queries alone, and `run` takes the
best of them from then on. `table` renders the tables of docs/results.md from the files. With
--results FOLDER, the files are in that folder, and `table` prints.
"""

import argparse
import ast
import json
import pathlib
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import hypotheses, results_tables, tuning
from experiments.entries import configure, entry
from quantjax import evaluate, launch
from quantjax.errors import InputError, QuantjaxError, is_one_line
from quantjax.report.revision import commit
from quantjax.run import console, files, workdirs

RESULTS = pathlib.Path(__file__).parent / "results"
_PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results.md"
_IDENTITY = ("metric", "name", "distance")
_KEPT = (*_IDENTITY, "value", "worst", "best", "low", "high", "chance", "bits", "num_bytes")
_ABOUT = ("device", "versions", "num_queries", "num_database")


def run(
    name: str,
    bits: Sequence[int],
    seeds: Sequence[int],
    *,
    workdir: pathlib.Path,
    settings: dict[str, Any],
    results: pathlib.Path = RESULTS,
    again: bool = False,
) -> None:
    """Runs an entry for all code lengths and seeds, and writes its file after each run.

    A failed run is recorded with its error, and the other runs continue. Missing data or packages,
    or a disk that cannot be written, end the command.

    Args:
      name: See `entry`.
      bits: Code lengths.
      seeds: Seeds.
      workdir: Parent folder of the runs' folders.
      settings: Settings such as the paths of data.
      results: Folder of the ledger's files.
      again: Whether existing runs are repeated.

    Raises:
      ValueError: if the entry or a setting does not exist.
      FileNotFoundError: if data are missing.
    """
    found = entry(name)
    chosen = tuning.chosen(results, found)
    name = found.name
    path = results / f"{name}.json"
    done = json.loads(path.read_text())["runs"] if path.exists() else []
    for length in bits:
        for seed in seeds:
            known = [each for each in done if (each["bits"], each["seed"]) == (length, seed)]
            if known and not again and "failed" not in known[0]:
                console.say(f"{name}, {length} bits, seed {seed}: there already")
                continue
            config = configure(found, {**chosen, **settings, "bits": length, "seed": seed})
            console.say(f"== {name}, {length} bits, seed {seed}")
            folder = workdir / f"{name}-{length}-{seed}-{commit()}"
            if again:
                shutil.rmtree(folder, ignore_errors=True)
            one = _one(found, config, folder)
            done = [each for each in done if each not in known] + [one]
            done.sort(key=lambda each: (each["bits"], each["seed"]))
            results.mkdir(parents=True, exist_ok=True)
            about = {"name": name, "overrides": found.overrides, "chosen": chosen}
            summary = summarize(done)
            text = json.dumps({**about, "summary": summary, "runs": done}, indent=1)
            files.write_text(path, text + "\n")


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns mean and half-width over seeds for each code length, row and metric.

    Args:
      runs: Runs as `run` writes them; failed runs are left out.

    Returns:
      Rows with mean, half_width of the 95 % interval by Student's t (None for one seed) and seeds.
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for each in runs:
        for row in each.get("rows", []):
            key = each["bits"], *(row[part] for part in _IDENTITY)
            groups.setdefault(key, []).append(row["value"])
    return [
        {
            "bits": length,
            **dict(zip(_IDENTITY, identity, strict=True)),
            "mean": float(np.mean(values)),
            "half_width": hypotheses.half_width(values),
            "seeds": len(values),
        }
        for (length, *identity), values in groups.items()
    ]


def _one(found, config, workdir):
    """Runs an entry with one code length and seed, and returns its record for the file."""
    began = time.perf_counter()
    about = {
        "bits": config.bits,
        "seed": config.seed,
        "config": {
            key: value
            for key, value in json.loads(config.to_json()).items()
            if key not in workdirs.PLACES
        },
        "commit": commit(),
    }
    try:
        if hasattr(found.module, "measure"):
            measured = found.module.measure(config)
            splits = measured.splits
            results = measured.results
            where = {
                "protocol": splits.name,
                "split": splits.digest,
                "audit": measured.audited._asdict(),
            }
        else:
            status = launch.run(
                config, found.module.build, lambda *_: {}, title="codes", workdir=workdir
            )
            if status:
                sys.exit(status)
            results = evaluate.read_results(workdir)
            (row, *_) = json.loads((workdir / "results.json").read_text())
            where = {key: row[key] for key in ("protocol", "split", "audit")}
    except (OSError, ImportError):  # no fault of this run's
        raise
    except Exception as error:
        if not isinstance(error, QuantjaxError):
            traceback.print_exc()
        console.say(f"failed: {error}")
        return {**about, "failed": str(error) or type(error).__name__}
    rows = [row for result in results for row in result.rows()]
    return {
        **about,
        **where,
        **{key: rows[0][key] for key in _ABOUT},
        "seconds": round(time.perf_counter() - began, 1),
        "rows": [{key: row.get(key) for key in _KEPT} for row in rows],
    }


def _setting(text):
    """Parses KEY=VALUE to key and value; a value that is not a Python literal stays text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line: `run`, `tune` or `table`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run entries and write their files")
    running.add_argument("--bits", nargs="+", type=int, default=[32])
    running.add_argument("--seeds", nargs="+", type=int, default=[0])
    running.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ledger"))
    running.add_argument("--again", action="store_true", help="do runs anew that are there")
    trying = commands.add_parser("tune", help="choose settings by validation queries")
    for each in (running, trying):
        each.add_argument("names", nargs="+", metavar="NAME")
        each.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    for each in (running, trying, table := commands.add_parser("table", help="render the tables")):
        each.add_argument("--results", type=pathlib.Path, default=RESULTS, metavar="FOLDER")
    table.add_argument("--check", action="store_true", help="only check docs/results.md")
    options = parser.parse_args(argv)
    try:
        if options.command == "table" and options.results != RESULTS:
            print(results_tables.render(options.results))
            return
        if options.command == "table":
            results_tables.update(_PAGE, RESULTS, check=options.check)
            return
        settings = dict(_setting(each) for each in options.settings)
        for name in options.names:
            if options.command == "tune":
                tuning.tune(name, settings=settings, results=options.results)
            else:
                run(
                    name,
                    options.bits,
                    options.seeds,
                    workdir=options.workdir,
                    settings=settings,
                    results=options.results,
                    again=options.again,
                )
            jax.clear_caches()
    except Exception as error:
        if not is_one_line(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
