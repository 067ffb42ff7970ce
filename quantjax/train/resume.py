"""Restores a run's train state from its checkpoints, and its experiment from its config."""

import importlib
import json
import pathlib
from typing import Any

from jax.sharding import Mesh

from quantjax.errors import InputError, MissingFileError
from quantjax.run import checkpoint, metric_log, parallel, processes, workdirs
from quantjax.train.experiment import Experiment, TrainState, initialize


def about_run(experiment: Experiment) -> dict[str, Any]:
    """Returns the settings that an experiment must share with a checkpoint to resume from it."""
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


def about_workdir(experiment: Experiment) -> dict[str, Any]:
    """Returns the settings that an experiment must share with a workdir: name, config, source."""
    about: dict[str, Any] = {"experiment": experiment.name, "config": experiment.config}
    if experiment.splits.source_digest is not None:
        about["source"] = experiment.splits.source_digest
    return about


def claim(experiment: Experiment, workdir: pathlib.Path | None) -> None:
    """Writes an experiment's config into a new workdir, or checks it against the existing config.

    An experiment without a config, and a workdir with checkpoints but no config, are not checked.

    Args:
      experiment: The experiment to run.
      workdir: The run's folder, or None.

    Raises:
      ValueError: as `run.workdirs.claim`.
    """
    if workdir is None or experiment.config is None:
        return

    def write_or_compare():
        if (workdir / workdirs.CONFIG).exists() or not (workdir / "checkpoints").exists():
            workdirs.claim(workdir, about_workdir(experiment))

    processes.from_first(write_or_compare)


def open_run(
    workdir: str | pathlib.Path, module: Any = None, *, places: dict[str, Any] | None = None
) -> Experiment:
    """Builds the experiment of a run from the config in its workdir.

    Args:
      workdir: The run's folder.
      module: The imported experiment file, with `get_config` and `build`; by default the file of
        the package `experiments` with the experiment's name, METHOD_DATA, or with the name METHOD
        and DATA among its `DATA_SETS`.
      places: Current paths of data, by the config's keys (`folders.PLACES`).

    Returns:
      The experiment, for `restore`, `fit` or an evaluation.

    Raises:
      FileNotFoundError: if the workdir keeps no config.
      ValueError: if the config is damaged, the experiment file is unknown, or its keys differ.
    """
    about = workdirs.read_config(pathlib.Path(workdir))
    name = about["experiment"]
    module, data_set = _experiment_of(name) if module is None else (module, _data_set(module, name))
    config, kept = module.get_config(*data_set), {**about["config"], **(places or {})}
    known = {*workdirs.flat(json.loads(config.to_json()))}
    unknown = sorted({*workdirs.flat(kept)} - known | {*(places or {})} - {*workdirs.PLACES})
    if unknown:
        raise InputError(
            f"{workdir} has a setting {unknown[0]} that {module.__name__} has not; pass the module "
            "that the run was of"
        )
    try:
        config.update(kept)
    except (TypeError, ValueError) as error:
        raise InputError(f"{workdir} keeps settings of the wrong type: {error}") from None
    experiment = module.build(config, *data_set)
    return experiment._replace(config=json.loads(config.to_json()))


def _experiment_of(name):
    """Imports an experiment file by name from the package `experiments` only.

    The name comes from a file that others may have written. It can only choose among the files of
    that package, so that no other code runs.

    Returns:
      The module, and () or the data set among its `DATA_SETS` with which its name continues.
    """
    file = name if isinstance(name, str) and name.isidentifier() else ""
    while file:
        try:
            module = importlib.import_module(f"experiments.{file}")
        except ModuleNotFoundError as error:
            # A missing import inside of the file is another error, and is raised as it is.
            if not f"experiments.{file}".startswith(str(error.name)):
                raise
        else:
            data_sets, rest = vars(module).get("DATA_SETS", ()), name.removeprefix(file)
            if rest[1:] in data_sets:
                return module, (rest[1:],)
            if not (rest or data_sets):
                return module, ()
        # "dqn_mnist_unseen" may be "unseen" of a file dqn_mnist, or "mnist_unseen" of a file dqn.
        file = file.rpartition("_")[0]
    raise InputError(
        f"the run is of {name!r:.60}, which is no file of the package experiments; pass the module "
        "that has its get_config and build"
    )


def _data_set(module, name):
    """Returns the longest of a module's `DATA_SETS` that ends a name, in a tuple; () for none."""
    found = [each for each in vars(module).get("DATA_SETS", ()) if name.endswith(f"_{each}")]
    return tuple(sorted(found, key=len)[-1:])


def restore(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    best: bool = False,
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
      mesh: Devices that hold the state; all devices when None.

    Returns:
      The state.

    Raises:
      FileNotFoundError: if the workdir has no checkpoint, or none with a "validation".
      ValueError: if the checkpoint is another experiment's, naming the settings that differ.
      DamagedError: if the checkpoint cannot be read.
    """
    workdir = pathlib.Path(workdir)
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise MissingFileError(f"{workdir} has no checkpoints")
    if experiment.config is not None:
        workdirs.check_config(workdir, about_workdir(experiment))
    # Restored onto a fresh state, which gives shapes and shardings for any number of devices.
    like = initialize(experiment, parallel.data_mesh() if mesh is None else mesh)
    with checkpoint.opened(folder, about_run(experiment), read_only=True) as store:
        path = workdir / "metrics.jsonl"
        store.values.update(
            processes.from_first(lambda: [*validations(metric_log.read(path)).items()])
        )
        step = store.best() if best else store.latest()
        if step is None:
            raise MissingFileError(
                f"{folder} has no checkpoint{' with a validation' if best else ''}"
            )
        return store.restore(like, step)


def validations(history: list[metric_log.Record]) -> dict[int, float]:
    """Returns the "validation" values of a history, by step."""
    found = {each["step"]: each.get("validation") for each in history if "after_epoch" in each}
    return {step: value for step, value in found.items() if isinstance(value, int | float)}


def restored(
    store: checkpoint.Store, experiment: Experiment, train_state: TrainState, *, resume: bool
) -> TrainState:
    """Returns the latest train state of a resumed run, or the first state of a new run.

    Args:
      store: Store of the run's checkpoints.
      experiment: The experiment to run.
      train_state: State of step 0, on the mesh.
      resume: Whether the store may hold checkpoints.

    Raises:
      ValueError: if the store must be empty and is not, or its checkpoints are another
        experiment's, or are beyond the last epoch.
      DamagedError: if no checkpoint can be read.
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
