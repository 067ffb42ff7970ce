"""`python -m experiments.NAME`: flags in, a trained method, its codes and a table out."""

import difflib
import hashlib
import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from quantjax import console, data, evaluate, index, parallel, records, train

_DOCUMENTED = (ValueError, FileNotFoundError, ModuleNotFoundError, records.NonFiniteError)

PLACES = ("data_dir", "features_dir")
"""Keys of a config that say where data lie, not what an experiment is."""

Baselines = Callable[[train.Experiment, ConfigDict, Any, train.TrainState], list[evaluate.Results]]
"""`(experiment, config, mesh, trained) -> results` on the same split; `trained` ended training."""


def main(
    get_config: Callable[[], ConfigDict],
    build: Callable[[ConfigDict], train.Experiment],
    baselines: Baselines,
    *,
    title: str,
    argv: Sequence[str] | None = None,
) -> None:
    """Runs an experiment file: parses flags, trains or resumes, evaluates, prints the table.

    Exits with 2 for a wrong flag, 1 for bad input, and 128 + number when a signal stopped the run
    (its state is saved, the same command goes on).

    Args:
      get_config: Plain numbers that a person may override by `--config.KEY=VALUE`.
      build: Config -> experiment.
      baselines: What the method must beat, on the same split.
      title: What the method's rows are called.
      argv: Command line; `sys.argv` when None.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        config, options = _parse(argv, get_config())
    except ValueError as error:
        sys.exit(_complain(error, 2))
    try:
        stopped = run(config, build, baselines, title=title, **options)
    except _DOCUMENTED as error:
        sys.exit(_complain(error, 1))
    if stopped is not None:
        sys.exit(128 + stopped)


def run(
    config: ConfigDict,
    build: Callable[[ConfigDict], train.Experiment],
    baselines: Baselines,
    *,
    title: str,
    workdir: str | pathlib.Path | None = None,
    allow_query_overlap: bool = False,
) -> int | None:
    """Audits the split, trains or resumes, then leaves codes and results in the workdir.

    Args:
      config: From the experiment's `get_config`, with overrides.
      build: Config -> experiment.
      baselines: What the method must beat.
      title: What the method's rows are called.
      workdir: Made if it is not there; `runs/NAME-DIGEST` when None.
      allow_query_overlap: Goes on although queries are in another list; results say so.

    Returns:
      None, or the number of the signal that stopped it.

    Raises:
      ValueError: if the workdir holds another experiment's config, or input does not fit.
    """
    began = time.perf_counter()
    experiment = build(config)
    about = {"experiment": experiment.name, "config": json.loads(config.to_json())}
    workdir = pathlib.Path(workdir or f"runs/{experiment.name}-{_digest(about)[:8]}")
    claim(workdir, about)
    console.announce(experiment, workdir)
    audited = data.audit(experiment.splits, allow_query_overlap=allow_query_overlap)
    console.report_audit(audited)
    mesh = parallel.data_mesh()
    with console.progress(experiment) as report:
        result = train.fit(experiment, workdir=workdir, mesh=mesh, callbacks=[report])
    if result.signal is not None:
        console.say(
            f"stopped by {signal.Signals(result.signal).name} at step {int(result.state.step)}; "
            "the same command goes on from there"
        )
        return result.signal
    console.say("evaluating")
    retrieval = evaluate.evaluate_method(
        experiment.method,
        result.state.params,
        result.state.state,
        experiment.splits,
        preprocess=experiment.preprocess,
        mesh=mesh,
        name=title,
        audited=audited,
    )
    index.save(workdir, retrieval.codec, retrieval.codes, ids=experiment.splits.database)
    results = [*retrieval.results, *baselines(experiment, config, mesh, result.state)]
    same = {
        "experiment": experiment.name,
        "protocol": experiment.splits.name,
        "split": experiment.splits.digest,
        "seed": config.seed,
        "audit": audited._asdict(),
    }
    evaluate.write_results(workdir, results, same)
    console.table(results)
    console.say(f"{time.perf_counter() - began:.1f} s; everything is in {workdir}")
    return None


def claim(workdir: pathlib.Path, about: dict[str, Any]) -> None:
    """Makes a workdir this experiment's own, or finds that it is.

    Where data lie is not part of what an experiment is: `data_dir` and `features_dir` may differ.

    Args:
      workdir: Made, with config.json in it, if it is not there.
      about: Experiment's name and config, JSON.

    Raises:
      ValueError: naming the keys that differ, if the workdir holds another experiment's config.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
            differing = _differing(_flat(there), _flat(about))
        except (json.JSONDecodeError, AttributeError):
            raise ValueError(f"{path} is no config of an experiment; choose another") from None
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({differing}); choose another --workdir"
            )
        return
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    records.write_whole(path, json.dumps(about, indent=2, sort_keys=True) + "\n")


def _parse(argv, defaults):
    """Returns config and options of `run`, or raises ValueError with one line."""
    keys = _flat(json.loads(defaults.to_json()))
    if {"--help", "-h"} & set(argv):
        console.usage(argv[0], keys)
        sys.exit(0)
    for argument in argv[1:]:
        name = argument.split("=")[0].removeprefix("--")
        key = name.removeprefix("config.")
        if name != key and key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean --config.{near[0]}?" if near else "--help lists all"
            raise ValueError(f"unknown key --config.{key}; {hint}")
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", defaults, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_bool(
        "allow_query_overlap", False, "Measure although queries leak.", flag_values=values
    )
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise ValueError(f"{error}; --help lists all") from None
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}; --help lists all")
    options = {name: values[name].value for name in ("workdir", "allow_query_overlap")}
    return values.config, options


def _digest(about):
    identity = {**about, "config": {k: v for k, v in about["config"].items() if k not in PLACES}}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _flat(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _differing(there, here):
    keys = sorted({*there, *here} - {f"config.{place}" for place in PLACES})
    return ", ".join(
        f"{key.removeprefix('config.')} is {there.get(key)!r} there, {here.get(key)!r} here"
        for key in keys
        if there.get(key) != here.get(key)
    )


def _complain(error, status):
    print(f"error: {error}", file=sys.stderr)
    return status
