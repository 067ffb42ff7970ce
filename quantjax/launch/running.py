"""Runs an experiment in a workdir: audits its split, trains or resumes it, and measures it."""

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from quantjax import data, evaluate, train
from quantjax.launch import provenance
from quantjax.launch.measuring import Baselines, Measured, measure, write_report
from quantjax.run import (
    console,
    devices,
    output,
    parallel,
    processes,
    signals,
    workdirs,
    writers,
)
from quantjax.run.paths import user_path

TRY_AGAIN = 75
"""Exit code of a run that saved its state after a signal of `signals.POLITE`, or lost a peer:
EX_TEMPFAIL of sysexits.h."""

BASELINE_FAILED = 3
"""Exit code of a run whose method was measured but a baseline of which failed."""


def run(
    config: ConfigDict,
    build: Callable[[ConfigDict], train.Experiment],
    baselines: Baselines,
    *,
    title: str,
    workdir: str | pathlib.Path | None = None,
    validate_every: int = 0,
    allow_query_overlap: bool = False,
    allow_changed_code: bool = False,
    max_equal_images: float = 0.01,
    draw_report: bool = True,
    tensorboard: bool = False,
    wandb: bool = False,
    anonymous: bool = False,
    debug: bool = False,
    flags: Mapping[str, Any] = MappingProxyType({}),
    fit: Callable[..., train.FitResult] = train.fit,
) -> int:
    """Audits the split, trains or resumes, then writes codes and results into the workdir.

    Args:
      config: From the experiment's `get_config`, with overrides.
      build: Config -> experiment.
      baselines: Baselines that the method must beat.
      title: Name of the method in the table.
      workdir: Created if it does not exist; `runs/NAME-DIGEST` when None.
      validate_every: Epochs between two evaluations on the validation set, 0 for none.
      allow_query_overlap: Whether to continue although queries are in another list; the results
        record it.
      allow_changed_code: Whether to measure a run that is trained to its end although the code that
        trained it has changed since; the results record it.
      max_equal_images: Share of the queries that may have an equal image in another list; the names
        of all equal images are written into the workdir's equal_images.txt.
      draw_report: Whether to write report.html into the workdir at the end.
      tensorboard: Whether to write curves for TensorBoard, see `run.writers.opened`.
      wandb: Whether to record curves with Weights & Biases, see `run.writers.opened`.
      anonymous: Whether to leave the places of data, `run.workdirs.PLACES`, out of config.json.
      debug: Whether to show the traceback of a baseline that fails.
      flags: Options of the command line, by name, to be recorded with the results.
      fit: `train.fit`, or a `functools.partial` of it with further options.

    Returns:
      The exit status: 0, that of the signal that stopped the run, or `BASELINE_FAILED`.

    Raises:
      ValueError: if the workdir holds another experiment's config, or input does not fit.
    """
    began = time.perf_counter()
    mesh = parallel.data_mesh()
    experiment = _built(config, build, mesh)
    # Right after the import, since files may be edited while the run is at work.
    start = provenance.describe(build, flags)
    # Before anything is written: a run that would end without codes must leave no folder.
    curves = {"tensorboard": tensorboard, "wandb": wandb}
    notes = [*train.left_out(experiment), *data.label_notes(experiment.splits)]
    about = _about(experiment, anonymous=anonymous)
    workdir = user_path(workdir or f"runs/{experiment.name}-{workdirs.digest(about)[:8]}")
    same = {"split": experiment.splits.digest, "validate_every": validate_every}
    processes.check_same({**workdirs.without_places(about["config"]), **same})
    # Before the lock, which would write into a folder of other things, or of another run.
    processes.from_first(functools.partial(workdirs.check_claim, workdir, about))
    with workdirs.held_by_all(workdir):
        processes.from_first(functools.partial(workdirs.claim, workdir, about))
        _announce(experiment, workdir, notes, logs=not anonymous)
        audited = _audit(experiment, workdir, allow_query_overlap, max_equal_images)
        recorder = provenance.recorder(workdir, start, allow_changed_code=allow_changed_code)
        fit = functools.partial(fit, workdir=workdir, mesh=mesh, at_start=recorder)
        with _writers(workdir, about, curves) as written:
            result = _train(experiment, fit, written, mesh, validate_every)
        provenance.end(workdir, result)
        # Nothing is measured after a signal: a job scheduler kills soon after it.
        if result.signal is not None:  # which `fit` has said
            return exit_code(result.signal)
        facts = provenance.facts(workdir, start, int(result.state.step))
        measured = Measured(experiment, result.state, mesh, workdir, title, debug, facts)
        retrieval, failed = measure(measured, baselines, audited)
        if draw_report and processes.is_first():
            write_report(measured, retrieval, time.perf_counter() - began)
    console.say(f"{time.perf_counter() - began:.1f} s; everything is in {workdir}")
    return BASELINE_FAILED if failed else 0


def _built(config, build, mesh):
    """Checks that the devices can share a batch, says what the run runs on, and reads the data."""
    size = config.get("batch_size")
    # First of all, since it may take minutes to read the data.
    if size is not None:
        parallel.check_divisible(mesh, size)
    for line in devices.describe(batch_size=size, precision=config.get("precision", "float32")):
        console.say(line)
    experiment = build(config)._replace(config=json.loads(config.to_json()))
    parallel.check_divisible(mesh, experiment.batch_size)
    return experiment


def _about(experiment, *, anonymous):
    """Returns the content of config.json, without the places of data for an anonymous run."""
    about = train.about_workdir(experiment)
    # Places are no part of an experiment's identity, so that the run goes on with or without them.
    config = workdirs.without_places(about["config"]) if anonymous else about["config"]
    return {**about, "config": config}


def _announce(experiment, workdir, notes, *, logs):
    """Begins the log of this process, which has the host's name and paths, and says what is run."""
    if logs:
        output.log_into(workdir / "logs" / f"process-{processes.number()}.log")
    # After the lock, so that a run that cannot start prints only its error.
    console.announce(experiment, workdir)
    for line in notes:
        console.say(f"note: {line}")


def _audit(experiment, workdir, allow_query_overlap, max_equal_images):
    """Audits the split, with the names of equal images in a file of the workdir."""
    # Processes that allow different things would not all stop at the same finding.
    allowed = {"allow_query_overlap": allow_query_overlap, "max_equal_images": max_equal_images}
    processes.check_same(allowed)
    listing = workdir / "equal_images.txt"
    audited = data.audit(experiment.splits, **allowed, listing=listing)
    console.report_audit(audited)
    if listing.exists():
        console.say(f"equal images are listed in {listing}")
    return audited


def _train(experiment, fit, written, mesh, validate_every):
    """Trains with progress on the terminal and an evaluation of the validation set."""
    with console.progress(experiment) as bar:
        return fit(
            experiment,
            callbacks=[bar, *written],
            after_epoch=evaluate.watcher(experiment, every=validate_every, mesh=mesh),
            progress=False,
        )


@contextlib.contextmanager
def _writers(workdir, about, asked):
    if not processes.is_first():
        yield []
        return
    with writers.opened(workdir, about["experiment"], about["config"], **asked) as written:
        yield written


def exit_code(number):
    """Returns the exit code of a run that a signal stopped, by the signal's number."""
    return TRY_AGAIN if number in signals.POLITE else 128 + number
