"""From a run's checkpoints back to its train state."""

import pathlib
from typing import Any

from jax.sharding import Mesh

from quantjax import checkpoint, parallel, processes, records
from quantjax.errors import InputError, MissingFileError
from quantjax.train.experiment import Experiment, TrainState, initialize


def about_run(experiment: Experiment) -> dict[str, Any]:
    """Returns what a checkpoint must share with an experiment that goes on from it."""
    about = {
        "experiment": experiment.name,
        "split": experiment.splits.digest,
        "seed": experiment.seed,
        "batch_size": experiment.batch_size,
        "steps per epoch": len(experiment.sampler(experiment.seed, 0)),
    }
    if experiment.splits.source_digest is not None:
        about["source"] = experiment.splits.source_digest
    return about


def restore(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    best: bool = False,
    mesh: Mesh | None = None,
) -> TrainState:
    """Reads a checkpoint of a run, which may be at work, and leaves everything as it is.

    A checkpoint of other people runs no code, but may be written to take any amount of memory.

    Args:
      experiment: What was run.
      workdir: Its folder.
      best: Whether to read, instead of the latest, the one of the largest "validation" in
        metrics.jsonl.
      mesh: Where the state is put; all devices when None.

    Returns:
      The state.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none with a "validation".
      ValueError: if it belongs to another experiment.
      DamagedError: if it cannot be read.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    if not folder.is_dir():
        raise MissingFileError(f"{workdir} has no checkpoints")
    like = initialize(experiment, parallel.data_mesh() if mesh is None else mesh)
    with checkpoint.opened(folder, about_run(experiment), read_only=True) as store:
        path = pathlib.Path(workdir) / "metrics.jsonl"
        store.values.update(
            processes.from_first(lambda: [*validations(records.read(path)).items()])
        )
        step = store.best() if best else store.latest()
        if step is None:
            raise MissingFileError(
                f"{folder} has no checkpoint{' with a validation' if best else ''}"
            )
        return store.restore(like, step)


def validations(history: list[records.Record]) -> dict[int, float]:
    """Returns the "validation" of every step of which records tell one."""
    found = {each["step"]: each.get("validation") for each in history if "after_epoch" in each}
    return {step: value for step, value in found.items() if isinstance(value, int | float)}


def restored(
    store: checkpoint.Store, experiment: Experiment, train_state: TrainState, *, resume: bool
) -> TrainState:
    """Returns the latest state of a run that goes on, or the one that it starts with.

    Args:
      store: Of the run's checkpoints.
      experiment: What is run.
      train_state: Of step 0, on the mesh.
      resume: Whether checkpoints may be there.

    Raises:
      ValueError: if they may not, or are of another experiment, or are further along.
      DamagedError: if none of them can be read.
    """
    if not resume and processes.from_first(store.latest) is not None:
        raise InputError(f"{store.folder} holds checkpoints; resume, or choose another workdir")
    found = store.restore(train_state)
    if found is None:
        return train_state
    per_epoch = store.about["steps per epoch"]
    if int(found.step) > experiment.num_epochs * per_epoch:
        raise InputError(
            f"{store.folder} is {-(-int(found.step) // per_epoch)} epochs along, more than "
            f"num_epochs, {experiment.num_epochs}; choose another workdir"
        )
    return found
