"""Runs entries of the ledger, and writes what was measured into the entry's file."""

import json
import pathlib
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantjax import evaluate, launch
from quantjax.errors import QuantjaxError
from quantjax.report.revision import commit
from quantjax.run import console, files, workdirs

from . import hypotheses, tuning
from .entries import configure, entry, refuse_overwritten

_KEPT_HERE = pathlib.Path(__file__).parent / "results"
RESULTS = _KEPT_HERE if _KEPT_HERE.is_dir() else pathlib.Path("runs/ledger/results")
"""The files of a checkout; a wheel has none, and writes below the working folder."""

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
      ValueError: if the entry or a setting does not exist, or a setting is bits or seed.
      FileNotFoundError: if data are missing.
    """
    refuse_overwritten(settings, ("bits", "seed"), "give --bits and --seeds")
    found = entry(name)
    chosen = tuning.chosen(results, found)
    name = found.name
    path = results / f"{name}.json"
    done = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    for length in bits:
        for seed in seeds:
            # A failed run is tried again, as its reason may be gone.
            known = [each for each in done if (each["bits"], each["seed"]) == (length, seed)]
            if known and not again and "failed" not in known[0]:
                console.say(f"{name}, {length} bits, seed {seed}: there already")
                continue
            config = configure(found, {**chosen, **settings, "bits": length, "seed": seed})
            console.say(f"== {name}, {length} bits, seed {seed}")
            # With the commit, so that a run never resumes from a checkpoint of other code.
            folder = workdir / f"{name}-{length}-{seed}-{commit()}"
            if again:
                shutil.rmtree(folder, ignore_errors=True)
            one = _one(found, config, folder)
            done = [each for each in done if each not in known] + [one]
            done.sort(key=lambda each: (each["bits"], each["seed"]))
            # After every run, so that an interrupted command loses only the run at work.
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
    began, used = time.perf_counter(), time.process_time()
    settings = json.loads(config.to_json())
    about = {
        "bits": config.bits,
        "seed": config.seed,
        # Without the places of data, which differ between machines.
        "config": {key: settings[key] for key in settings if key not in workdirs.PLACES},
        "commit": commit(),
    }
    try:
        measure = _measured if hasattr(found.module, "measure") else _trained
        where, results = measure(found, config, workdir)
    except (OSError, ImportError):  # no fault of this run's
        raise
    except Exception as error:
        if not isinstance(error, QuantjaxError):
            traceback.print_exc()
        # Written down, so that a table shows that this length cannot be had, and others go on.
        console.say(f"failed: {error}")
        return {**about, "failed": str(error) or type(error).__name__}
    rows = [row for result in results for row in result.rows()]
    return {
        **about,
        **where,
        **{key: rows[0][key] for key in _ABOUT},
        "seconds": round(time.perf_counter() - began, 1),
        # Hardly longer on a machine that is at work on other things.
        "cpu_seconds": round(time.process_time() - used, 1),
        "rows": [{key: row.get(key) for key in _KEPT} for row in rows],
    }


def _measured(found, config, workdir):
    """Measures by the module's own function; returns facts of its splits, and the results."""
    del workdir
    measured = found.module.measure(config, *found.data_set)
    where = [
        {"protocol": splits.name, "split": splits.digest, "audit": audited._asdict()}
        for splits, audited, _ in measured
    ]
    results = [result for each in measured for result in each.results]
    if len(where) == 1:
        return where[0], results
    # Of several splits lists; their names, which tables print, as one text.
    joined = {key: [each[key] for each in where] for key in where[0]}
    return {**joined, "protocol": ", ".join(joined["protocol"])}, results


def _trained(found, config, workdir):
    """Trains and measures a method; returns the split's facts and the results."""

    def build(config):
        return found.module.build(config, *found.data_set)

    # Without baselines: the entries of `experiments.codes` are the ledger's.
    status = launch.run(config, build, lambda *_: {}, title="codes", workdir=workdir)
    if status:
        sys.exit(status)
    (row, *_) = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    where = {key: row[key] for key in ("protocol", "split", "audit")}
    return where, evaluate.read_results(workdir)
