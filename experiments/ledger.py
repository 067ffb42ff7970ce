"""The results that this project stands by: what was run, with which settings, and what came out.

    python -m experiments.ledger run NAME ... --bits 16 32 48 --seeds 0 1 2
    python -m experiments.ledger tune NAME ...
    python -m experiments.ledger table

NAME is an experiment file, or FILE.ABLATION. `run` trains for every length and seed, measures on
the queries, and writes experiments/results/NAME.json; what is there already is done again only with
--again. `tune` tries the settings of `experiments.hypotheses.SETTINGS` by validation queries alone,
and `run` takes the best of them from then on. `table` renders README's tables from the files.
"""

import argparse
import importlib
import json
import pathlib
import pkgutil
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import experiments
from experiments import hypotheses, results_tables
from quantjax import console, data, evaluate, launch, parallel, records, train

RESULTS = pathlib.Path(__file__).parent / "results"
_README = pathlib.Path(__file__).parents[1] / "README.md"
_IDENTITY = ("metric", "name", "distance")
_KEPT = (*_IDENTITY, "value", "worst", "best", "low", "high", "chance", "bits", "num_bytes")
_ABOUT = ("device", "versions", "num_queries", "num_database")


class Entry(NamedTuple):
    """What a name of the ledger stands for.

    Attributes:
      name: FILE or FILE.ABLATION.
      module: The experiment file.
      overrides: Of the ablation.
    """

    name: str
    module: ModuleType
    overrides: dict[str, Any]


def entry(name: str) -> Entry:
    """Finds a name.

    Args:
      name: FILE or FILE.ABLATION.

    Raises:
      ValueError: if there is no such file or ablation, saying what there is.
    """
    file, _, ablation = name.partition(".")
    known = names()
    if file not in known:
        raise ValueError(f"no experiment {file}; there are {', '.join(known)}")
    module = importlib.import_module(f"experiments.{file}")
    ablations = getattr(module, "ABLATIONS", {})
    if ablation and ablation not in ablations:
        raise ValueError(
            f"{file} has no ablation {ablation}; there are {', '.join(ablations) or 'none'}"
        )
    return Entry(name, module, ablations[ablation] if ablation else {})


def names() -> list[str]:
    """Returns all experiment files."""
    found = []
    for module in pkgutil.iter_modules(experiments.__path__):
        path = pathlib.Path(experiments.__path__[0]) / f"{module.name}.py"
        if path.exists() and "\ndef get_config()" in path.read_text():
            found.append(module.name)
    return found


def configure(entry: Entry, settings: dict[str, Any]) -> ConfigDict:
    """Returns an entry's config with its ablation's overrides, and settings on top.

    Args:
      entry: From `entry`.
      settings: Such as bits and seed.

    Raises:
      ValueError: if a setting is none of the config's keys.
    """
    config = entry.module.get_config()
    for overrides in (entry.overrides, settings):
        for key, value in overrides.items():
            if key not in config:
                raise ValueError(f"{entry.name} has no setting {key}")
            config[key] = value
    return config


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
    """Runs an entry for all lengths and seeds, and writes its file after each.

    A run that fails is written down too, with its error, and the others go on; but data that are
    not there are nobody's failure.

    Args:
      name: See `entry`.
      bits: Code lengths.
      seeds: Seeds.
      workdir: Folder of the runs' own folders.
      settings: Where data lie, and the like.
      results: Folder of the ledger's files.
      again: Whether runs that are there already are done anew.

    Raises:
      ValueError: if there is no such entry or setting.
      FileNotFoundError: if there are no data.
    """
    found = entry(name)
    chosen = _chosen(results, found)
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
            folder = workdir / f"{name}-{length}-{seed}-{_commit()}"
            if again:
                shutil.rmtree(folder, ignore_errors=True)
            one = _one(found, config, folder)
            done = [each for each in done if each not in known] + [one]
            done.sort(key=lambda each: (each["bits"], each["seed"]))
            results.mkdir(parents=True, exist_ok=True)
            about = {"name": name, "overrides": found.overrides, "chosen": chosen}
            summary = summarize(done)
            text = json.dumps({**about, "summary": summary, "runs": done}, indent=1)
            records.write_whole(path, text + "\n")


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns mean and half-width over seeds for each length, row and metric.

    Args:
      runs: As `run` writes them; those that failed are left out.

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


def tune(
    name: str, *, settings: dict[str, Any], results: pathlib.Path = RESULTS, bits: int = 32
) -> None:
    """Tries an entry's settings, measured by validation queries on what these search.

    The queries are in no list of the split that is used here.

    Args:
      name: One of `hypotheses.SETTINGS`.
      settings: Where data lie, and the like.
      results: Folder of the ledger's files.
      bits: Code length.

    Raises:
      ValueError: if the entry is not known, or has no settings to try.
    """
    found = entry(name)
    if name not in hypotheses.SETTINGS:
        raise ValueError(f"{name} has no settings to try in experiments.hypotheses.SETTINGS")
    trials = []
    for number, tried in enumerate(hypotheses.SETTINGS[name]):
        config = configure(found, {**tried, **settings, "bits": bits, "seed": 0})
        value = _validated(found.module.build, config)
        trials.append({"settings": tried, "validation": value})
        console.say(f"{name}, setting {number + 1}: {tried} {value:.4f}")
    best = max(trials, key=lambda trial: trial["validation"])
    folder = results / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": name, "bits": bits, "seed": 0, "commit": _commit()}
    text = json.dumps({**about, "chosen": best["settings"], "trials": trials}, indent=1)
    records.write_whole(folder / f"{name}.json", text + "\n")


def validation_only(splits: data.Splits) -> data.Splits:
    """Returns splits whose queries are the validation rows, and which hold no query.

    Args:
      splits: With validation rows.

    Raises:
      ValueError: if there are none.
    """
    if not len(splits.validation):
        raise ValueError(f"{splits.name} has no validation rows to choose by")
    return data.make_splits(
        splits.source,
        train=splits.train,
        validation=np.array([], np.int64),
        query=splits.validation,
        database=splits.validation_database,
        name=f"{splits.name} validation",
    )


def _validated(build: Callable[[ConfigDict], train.Experiment], config: ConfigDict) -> float:
    experiment = build(config)
    experiment = experiment._replace(splits=validation_only(experiment.splits))
    mesh = parallel.data_mesh()
    try:
        with console.progress(experiment) as report:
            state = train.fit(experiment, mesh=mesh, callbacks=[report]).state
    except records.NonFiniteError as error:
        console.say(str(error))
        return 0.0
    found = evaluate.evaluate_method(
        experiment.method,
        state.params,
        state.state,
        experiment.splits,
        preprocess=experiment.preprocess,
        mesh=mesh,
        name="validation",
    )
    return found.results[0].value


def _one(found, config, workdir):
    """Runs one length and seed, and returns what the file holds of it."""
    began = time.perf_counter()
    about = {
        "bits": config.bits,
        "seed": config.seed,
        "config": {
            key: value
            for key, value in json.loads(config.to_json()).items()
            if key not in ("data_dir", "features_dir")
        },
        "commit": _commit(),
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
            stopped = launch.run(
                config, found.module.build, lambda *_: [], title="codes", workdir=workdir
            )
            if stopped is not None:
                sys.exit(128 + stopped)
            results = evaluate.read_results(workdir)
            (row, *_) = json.loads((workdir / "results.json").read_text())
            where = {key: row[key] for key in ("protocol", "split", "audit")}
    except (ValueError, records.NonFiniteError) as error:
        console.say(f"failed: {error}")
        return {**about, "failed": str(error)}
    rows = [row for result in results for row in result.rows()]
    return {
        **about,
        **where,
        **{key: rows[0][key] for key in _ABOUT},
        "seconds": round(time.perf_counter() - began, 1),
        "rows": [{key: row.get(key) for key in _KEPT} for row in rows],
    }


def _chosen(results, found):
    """Returns the settings that tuning chose, or, for an ablation without its own, the whole's."""
    for name in (found.name, found.name.partition(".")[0]):
        path = results / "tuning" / f"{name}.json"
        if path.exists():
            chosen = json.loads(path.read_text())["chosen"]
            own = name == found.name
            return {key: chosen[key] for key in chosen if own or key not in found.overrides}
    return {}


def _commit():
    """Returns the commit of the code, with a plus if the code differs from it."""
    root = pathlib.Path(__file__).parents[1]

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        ).stdout.strip()

    commit = git("rev-parse", "--short=7", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and does what it says."""
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
    tuning = commands.add_parser("tune", help="choose settings by validation queries")
    for each in (running, tuning):
        each.add_argument("names", nargs="+", metavar="NAME")
        each.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    table = commands.add_parser("table", help="render README's tables")
    table.add_argument("--check", action="store_true", help="only see whether README has them")
    options = parser.parse_args(argv)
    try:
        if options.command == "table":
            results_tables.update(_README, RESULTS, check=options.check)
            return
        settings = dict(each.split("=", 1) for each in options.settings)
        for name in options.names:
            if options.command == "tune":
                tune(name, settings=settings)
            else:
                run(
                    name,
                    options.bits,
                    options.seeds,
                    workdir=options.workdir,
                    settings=settings,
                    again=options.again,
                )
            jax.clear_caches()
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
