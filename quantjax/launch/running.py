"""Runs an experiment in a workdir: audits its split, trains or resumes it, and measures it."""

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from quantjax import data, evaluate, train
from quantjax.errors import few
from quantjax.launch import checkpoints, provenance
from quantjax.launch.checkpoints import NOTHING_EARLIER, Earlier
from quantjax.launch.measuring import Baselines, Measured, measure
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
    earlier: Earlier = NOTHING_EARLIER,
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
    """Audits the split, trains, resumes or restores, then writes codes and results.

    Args:
      config: From the experiment's `get_config`, with overrides.
      build: Config -> experiment.
      baselines: Baselines that the method must beat.
      title: Name of the method in the table.
      workdir: Created if it does not exist; `runs/NAME-DIGEST` when None.
      validate_every: Epochs between two evaluations on the validation set, 0 for none.
      earlier: Which training of before the run uses: measures alone, extends or starts from.
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
      FileNotFoundError: if `earlier` names a checkpoint that is not there.
    """
    began = time.perf_counter()
    mesh, trained = parallel.data_mesh(), None
    plan = _plan(config, build, mesh, workdir, earlier, validate_every, flags, anonymous)
    experiment, workdir, out = plan.experiment, plan.workdir, plan.out
    curves = {"tensorboard": tensorboard, "wandb": wandb}
    with checkpoints.claimed(earlier, experiment, workdir, out, plan.about) as state:
        if not anonymous:  # a log has the host's name and paths
            output.log_into(out / "logs" / f"process-{processes.number()}.log")
        # After the lock, so that a run that cannot start prints only its error.
        _announce(plan, is_warm=state is not None)
        audited = _audit(experiment, out, allow_query_overlap, max_equal_images)
        if not earlier.evaluate_only:
            begin = functools.partial(provenance.begin, workdir, plan.start, allow_changed_code)
            fit = functools.partial(fit, workdir=workdir, mesh=mesh, state=state, at_start=begin)
            watcher = evaluate.watcher(experiment, every=validate_every, mesh=mesh)
            with _callbacks(experiment, workdir, plan.about, curves) as callbacks:
                result = fit(experiment, callbacks=callbacks, after_epoch=watcher, progress=False)
            provenance.end(workdir, result)
            # Nothing is measured after a signal: a job scheduler kills soon after it.
            if result.signal is not None:  # which `fit` has said
                return exit_code(result.signal)
            trained = result.state
        draw = draw_report and processes.is_first()
        options = experiment, mesh, out, title, debug, began, draw
        failed = measure(Measured(*options, *_chosen(plan, mesh, trained)), baselines, audited)
    console.say(f"{time.perf_counter() - began:.1f} s; everything is in {out}")
    return BASELINE_FAILED if failed else 0


class _Plan(NamedTuple):
    """A run that has written nothing yet.

    `start` is its provenance, `about` what its workdir must share, `out` the folder of its results.
    """

    experiment: train.Experiment
    earlier: Earlier
    start: dict[str, Any]
    about: dict[str, Any]
    workdir: pathlib.Path
    out: pathlib.Path
    notes: list[str]


def _plan(config, build, mesh, workdir, earlier, validate_every, flags, anonymous):
    """Builds the experiment and names its folders; checks that all processes do the same."""
    longer = checkpoints.lengthened(config, earlier.extend)
    experiment = _built(longer, build, mesh)
    # Right after the import, since files may be edited while the run is at work.
    start = provenance.describe(build, flags)
    about = checkpoints.describe(experiment, earlier, anonymous=anonymous)
    workdir = user_path(workdir or checkpoints.default_workdir(about, config))
    out = workdir if earlier.out is None else user_path(earlier.out)
    same = {"split": experiment.splits.digest, "validate_every": validate_every}
    same |= {f"--{name}": value for name, value in earlier._asdict().items()}
    processes.check_same({**workdirs.without_places(about["config"]), **same})
    # Before anything is written: a run that would end without codes must leave no folder.
    notes = [*train.left_out(experiment), *data.label_notes(experiment.splits)]
    return _Plan(experiment, earlier, start, about, workdir, out, notes)


def _announce(plan, *, is_warm):
    """Prints the sizes of a run, and what is unusual about it."""
    console.announce(plan.experiment, plan.workdir)
    if is_warm:
        plan.notes.append(f"the first parameters are those of {plan.earlier.init_from}")
    for line in plan.notes:
        console.say(f"note: {line}")


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


def _chosen(plan, mesh, trained):
    """Returns the state to measure, its facts, and facts and readers of those beside it."""
    found = checkpoints.choose(plan.earlier, plan.experiment, plan.workdir, mesh, trained)
    first, *beside = [
        (provenance.facts(plan.workdir, plan.start, each.step, checkpoint=each.name), each.read)
        for each in found
    ]
    facts, read = first
    if trained is None and facts["changed_code"]:
        files = few(facts["changed_code"])
        console.say(f"warning: other code than trained this checkpoint: {files}")
    return read(), facts, beside


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


@contextlib.contextmanager
def _callbacks(experiment, workdir, about, curves):
    """Yields the progress bar and, in the first process, the writers of curves."""
    with contextlib.ExitStack() as stack:
        written = []
        # Ahead of the bar, which what a service prints at its start and end would disturb.
        if processes.is_first():
            opened = writers.opened(workdir, about["experiment"], about["config"], **curves)
            written = stack.enter_context(opened)
        yield [stack.enter_context(console.progress(experiment)), *written]


def exit_code(number):
    """Returns the exit code of a run that a signal stopped, by the signal's number."""
    return TRY_AGAIN if number in signals.POLITE else 128 + number
