"""Reads the checkpoints of a run: lists them, restores one, or takes its parameters alone."""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from quantjax.errors import InputError, MissingFileError
from quantjax.run import (
    checkpoint,
    checkpoint_files,
    encodings,
    metric_log,
    parallel,
    processes,
    sealing,
    workdirs,
)
from quantjax.run.paths import user_path
from quantjax.train.experiment import Experiment, TrainState, initialize
from quantjax.train.resume import about_run, about_workdir, on_host

_WARM = ("params/", "state/nets/")  # what a trained network consists of


class Checkpoints(NamedTuple):
    """Checkpoints that a run has left.

    Attributes:
      steps: Their steps, ascending.
      best: The step with the largest "validation", or None without a measured one.
    """

    steps: tuple[int, ...]
    best: int | None


def list_checkpoints(workdir: str | pathlib.Path) -> Checkpoints:
    """Lists the checkpoints of a run, which may be in progress.

    Args:
      workdir: The run's folder; need not exist.
    """
    workdir = user_path(workdir)

    def found():
        steps = checkpoint_files.saved_steps(workdir / "checkpoints")
        values = validations(metric_log.read(workdir / "metrics.jsonl"))
        return steps, checkpoint_files.best_step(values, steps)

    steps, best = processes.from_first(found)
    return Checkpoints(tuple(steps), best)


def find_step(workdir: str | pathlib.Path, asked: str | int = "last") -> int:
    """Returns the step of a checkpoint.

    Args:
      workdir: The run's folder.
      asked: "last", "best" by the validation queries, or the number of a step.

    Raises:
      FileNotFoundError: if the run has no such checkpoint; the message names those that it has.
      ValueError: if Python's encoding of paths keeps checkpoints from being read.
    """
    encodings.check_path(user_path(workdir))
    steps, best = list_checkpoints(workdir)
    if not steps:
        raise MissingFileError(f"{workdir} has no checkpoints; train there first")
    step = {"last": steps[-1], "best": best}.get(asked, asked)
    there = f"there are {', '.join(map(str, steps))}"
    if step is None:
        raise MissingFileError(f"{workdir} has no checkpoint with a validation; {there}")
    if step not in steps:
        raise MissingFileError(f"{workdir} has no checkpoint of step {step}; {there}")
    return step


def restore(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    best: bool = False,
    step: int | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """Reads the train state from a checkpoint of a run.

    No file is changed, and the run may be in progress. A checkpoint from others runs no code, but
    may be built to take any amount of memory.

    Args:
      experiment: The run's experiment; `open_run` builds it. Its config, if any, is compared with
        the workdir's config.
      workdir: The run's folder.
      best: Whether to read the checkpoint with the largest "validation" in metrics.jsonl, instead
        of the latest.
      step: Number of the step to read; None for the latest, or the best.
      mesh: Devices that hold the state; all devices when None.

    Returns:
      The state.

    Raises:
      FileNotFoundError: if the workdir has no checkpoint, none with a "validation", or none of the
        step.
      ValueError: if the checkpoint is another experiment's, naming the settings that differ.
      DamagedError: if the checkpoint cannot be read.
    """
    workdir = user_path(workdir)
    if best and step is not None:
        raise InputError(f"best and step exclude each other, got both, step {step}")
    step = find_step(workdir, "best" if best else "last" if step is None else step)
    if experiment.config is not None:
        workdirs.check_config(workdir, about_workdir(experiment))
    # Restored onto a fresh state, which gives shapes and shardings for any number of devices.
    like = initialize(experiment, parallel.data_mesh() if mesh is None else mesh)
    about = about_run(experiment)
    with checkpoint.opened(workdir / "checkpoints", about, read_only=True) as store:
        return store.restore(like, step)


def warm_start(
    experiment: Experiment, workdir: str | pathlib.Path, *, mesh: Mesh | None = None
) -> TrainState:
    """Returns the state of step 0 with the networks of another run: parameters and statistics.

    Further arrays, such as codebooks that a refresh fits, and the optimizers start anew.

    Args:
      experiment: The experiment to train, by `fit(experiment, state=...)`.
      workdir: Folder of the other run, whose latest checkpoint is read.
      mesh: Devices of the run; all devices when None.

    Returns:
      The state, in host memory.

    Raises:
      FileNotFoundError: if the other run has no checkpoint.
      ValueError: naming the first parameter that the other run does not have, or has in another
        type or shape.
      DamagedError: if the checkpoint cannot be read.
    """
    mesh = parallel.data_mesh() if mesh is None else mesh
    folder, step = user_path(workdir) / "checkpoints", find_step(workdir)
    start = initialize(experiment, mesh)
    wanted = {k: x for k, x in sealing.by_path(start).items() if k.startswith(_WARM)}
    start = sealing.with_leaves(start, checkpoint_files.read_arrays(folder, step, wanted))

    def init(params):
        return {name: experiment.optimizers[name].init(part) for name, part in params.items()}

    # Some optimizers keep a copy of the parameters that they start from.
    opt = jax.jit(init, out_shardings=parallel.replicated(mesh))(start.params)
    return on_host(start._replace(opt=opt))


def describe_checkpoint(workdir: str | pathlib.Path) -> dict[str, Any]:
    """Describes a run's latest checkpoint: "experiment", "step", and a "digest" of its arrays.

    Args:
      workdir: The run's folder.

    Raises:
      FileNotFoundError: if the run has no checkpoint.
      DamagedError: if the checkpoint cannot be read.
    """
    step = find_step(workdir)
    folder = user_path(workdir) / "checkpoints"
    about = processes.from_first(lambda: checkpoint_files.describe(folder, step))
    sums = json.dumps(about["checksums"], sort_keys=True)
    digest = hashlib.sha256(sums.encode()).hexdigest()
    return {"experiment": about["run"].get("experiment"), "step": step, "digest": digest}


def validations(history: list[metric_log.Record]) -> dict[int, float]:
    """Returns the "validation" values of a history, by step."""
    found = {each["step"]: each.get("validation") for each in history if "after_epoch" in each}
    return {step: value for step, value in found.items() if isinstance(value, int | float)}
