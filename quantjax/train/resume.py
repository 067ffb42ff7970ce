"""Finds the state that a run resumes from, and keeps the state that a failed run leaves.

A run resumes from the checkpoints in its workdir or from a given train state. Its experiment can be
built again from the config in the workdir.
"""

import contextlib
import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.errors import InputError, NonFiniteError
from quantjax.methods.contract import shown
from quantjax.run import checkpoint, parallel, processes, sealing, workdirs
from quantjax.run.paths import user_path
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


@contextlib.contextmanager
def claimed(experiment: Experiment, workdir: pathlib.Path) -> Generator[None]:
    """Locks a workdir, writes the experiment's config into it or checks the existing config.

    An experiment without a config, and a workdir with checkpoints but no config, are not checked.

    Args:
      experiment: The experiment to run.
      workdir: The run's folder.

    Raises:
      ValueError: as `run.workdirs.claim` and `run.workdirs.held_by_all`.
    """

    def attempt(function):
        is_ours = (workdir / workdirs.CONFIG).exists() or not (workdir / "checkpoints").exists()
        if experiment.config is not None and is_ours:
            function(workdir, about_workdir(experiment))

    # Checked before the lock, which writes into the folder, and again with it.
    processes.from_first(lambda: attempt(workdirs.check_claim))
    with workdirs.held_by_all(workdir):
        processes.from_first(lambda: attempt(workdirs.claim))
        yield


def open_run(
    workdir: str | pathlib.Path, module: Any = None, *, places: dict[str, Any] | None = None
) -> Experiment:
    """Builds the experiment of a run from the config in its workdir.

    Args:
      workdir: The run's folder.
      module: The imported experiment file, with `get_config` and `build`; by default the file
        with the experiment's name, METHOD_DATA, or with the name METHOD and DATA among its
        `DATA_SETS`, of the package `quantjax_experiments`, or else of a package `experiments`.
      places: Current paths of data, by the config's keys (`workdirs.PLACES`).

    Returns:
      The experiment, for `restore`, `fit` or an evaluation.

    Raises:
      FileNotFoundError: if the workdir keeps no config.
      ValueError: if the config is damaged, the experiment file is unknown, or its keys differ.
    """
    about = workdirs.read_config(user_path(workdir))
    name = about["experiment"]
    module, data_set = _experiment_of(name) if module is None else (module, _data_set(module, name))
    # Every key must be known: otherwise a setting of another version would be lost in silence.
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


_PACKAGES = "quantjax_experiments", "experiments"
"""Packages of experiment files: ours as a wheel and a checkout have it, and a checkout's or a
user's. A workdir names no package, so that it opens in all of them."""


def _experiment_of(name):
    """Imports an experiment file by name from `_PACKAGES` only.

    The name comes from a file that others may have written. It can only choose among the files of
    those packages, so that no other code runs.

    Returns:
      The module, and () or the data set among its `DATA_SETS` with which its name continues.
    """
    file = name if isinstance(name, str) and name.isidentifier() else ""
    # The package that the process works with goes first, so that programs and data are shared.
    packages = sorted(_PACKAGES, key=lambda package: package not in sys.modules)
    while file:
        for module in filter(None, (_imported(f"{package}.{file}") for package in packages)):
            data_sets, rest = vars(module).get("DATA_SETS", ()), name.removeprefix(file)
            if rest[1:] in data_sets:
                return module, (rest[1:],)
            if not (rest or data_sets):
                return module, ()
        # "dqn_mnist_unseen" may be "unseen" of a file dqn_mnist, or "mnist_unseen" of a file dqn.
        file = file.rpartition("_")[0]
    raise InputError(
        f"the run is of {name!r:.60}, which is no file of the package {' or '.join(_PACKAGES)}; "
        "pass the module that has its get_config and build"
    )


def _imported(name):
    """Returns an experiment file, or None if there is no such module or it builds nothing."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A missing import inside of the file is another error, and is raised as it is.
        if not name.startswith(str(error.name)):
            raise
        return None
    return module if hasattr(module, "build") else None


def _data_set(module, name):
    """Returns the longest of a module's `DATA_SETS` that ends a name, in a tuple; () for none."""
    found = [each for each in vars(module).get("DATA_SETS", ()) if name.endswith(f"_{each}")]
    return tuple(sorted(found, key=len)[-1:])


def start_state(
    experiment: Experiment,
    mesh: Mesh,
    store: checkpoint.Store,
    state: TrainState | None,
    *,
    resume: bool,
) -> TrainState:
    """Returns the train state that a run starts from: given, from a checkpoint, or of step 0.

    Args:
      experiment: The experiment to run.
      mesh: From `run.parallel.data_mesh`.
      store: Store of the run's checkpoints.
      state: Train state to resume from, which is copied; None for the latest checkpoint, if any.
      resume: Whether the store may hold checkpoints.

    Raises:
      ValueError: if the store must be empty and is not, the state or the checkpoints do not fit the
        experiment, or they are beyond its last epoch.
      DamagedError: if no checkpoint can be read.
    """
    if processes.from_first(store.latest) is not None:
        if state is not None:
            raise InputError(
                f"{store.folder} holds checkpoints, and a state is given too; leave state out to "
                "go on from them, or choose another workdir"
            )
        if not resume:
            raise InputError(f"{store.folder} holds checkpoints; resume, or choose another workdir")
    start = initialize(experiment, mesh)
    # A checkpoint is restored onto the first state, which gives shapes and shardings.
    found = store.restore(start) if state is None else _placed(state, start, mesh)
    if found is None:
        return start
    epochs = -(-int(found.step) // store.about["steps per epoch"])
    if epochs > experiment.num_epochs:
        raise InputError(
            f"{store.folder or 'the state'} is {epochs} epochs along, more than num_epochs, "
            f"{experiment.num_epochs}; choose another workdir, or more epochs"
        )
    return found


def _placed(state, like, mesh):
    """Returns a copy of a given state on the mesh, after comparing its arrays with a fresh state's.

    The copy leaves the caller's state usable, because a step reuses the memory of its input.
    """
    if not isinstance(state, TrainState):
        raise InputError(
            f"state must be a TrainState, such as the `state` of what fit returned, got a "
            f"{type(state).__name__}"
        )
    # Compared by name and shape first, so that the message names the first array that differs.
    there, here = (
        {name: shown(leaf) for name, leaf in sealing.by_path(tree).items()}
        for tree in (state, like)
    )
    differing = sorted(name for name in {**there, **here} if there.get(name) != here.get(name))
    if differing or jax.tree.structure(state) != jax.tree.structure(like):
        name = differing[0] if differing else "its structure"
        raise InputError(
            f"state does not fit the experiment: {name} is {there.get(name, 'missing')}, due is "
            f"{here.get(name, 'no such array')}"
        )
    return parallel.put(mesh, on_host(state))


@dataclasses.dataclass
class LastGood:
    """History and last good state of a run, to be attached to an error that ends the run.

    Attributes:
      in_memory: Whether states are kept in memory, because no workdir keeps them.
      history: Logged records, oldest first.
      state: The last good state, as arrays of the host, or None.
    """

    in_memory: bool
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    state: TrainState | None = None

    def take(self, train_state: TrainState) -> None:
        """Copies a finite state to the host, because steps reuse the memory of their input."""
        if self.in_memory:
            # Assigned only when complete, so that an error while copying leaves the previous state.
            self.state = on_host(train_state)


def on_host(tree: Any) -> Any:
    """Copies the arrays of a pytree to host memory, in every process."""

    def copied(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            return x.copy()  # NumPy has no random keys
        return np.array(parallel.gather(x) if isinstance(x, jax.Array) else x)

    return jax.tree.map(copied, tree)


@contextlib.contextmanager
def attached(last_good: LastGood, store: checkpoint.Store) -> Generator[None]:
    """Attaches `history` and `state` to every error that leaves a run, also KeyboardInterrupt.

    Args:
      last_good: Source of history and state.
      store: Store of the run's checkpoints; a NonFiniteError names the latest.
    """
    try:
        yield
    except NonFiniteError as error:
        message = f"{error}; {_last_good_step(last_good, store)}; lower the learning rate"
        raise attach(NonFiniteError(message), last_good) from None
    except BaseException as error:
        attach(error, last_good)
        raise


def _last_good_step(last_good, store):
    latest = store.latest()
    if latest is not None:
        return f"the last good checkpoint is step {latest} in {store.folder}"
    if last_good.state is not None:
        return f"the error's `state` is the last good one, of step {int(last_good.state.step)}"
    return "there is no checkpoint"


def attach(error: BaseException, last_good: LastGood) -> BaseException:
    """Returns the error with the attributes `history` and `state`, and a note about them."""
    with contextlib.suppress(TypeError):  # a class that takes no further attributes
        vars(error).update(history=last_good.history, state=last_good.state)
    if last_good.state is not None:
        error.add_note(
            f"The error's `history` has {len(last_good.history)} records, its `state` is that of "
            f"step {int(last_good.state.step)}; train.fit(experiment, state=error.state) goes on "
            "from there."
        )
    return error
