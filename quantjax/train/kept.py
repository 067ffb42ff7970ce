"""Keeps train states in host memory: to attach to errors of `fit`, and to resume from."""

import contextlib
import dataclasses
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.errors import InputError, NonFiniteError
from quantjax.run import checkpoint, parallel
from quantjax.train.experiment import TrainState


@dataclasses.dataclass
class Kept:
    """History and last good state of a run, to be attached to an error that ends the run.

    Attributes:
      in_memory: Whether states are kept in memory, because no workdir keeps them.
      history: Logged records, oldest first.
      state: The state at the end of the last epoch, as arrays of the host, or None.
    """

    in_memory: bool
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    state: TrainState | None = None

    def take(self, train_state: TrainState) -> None:
        """Copies a finite state to the host, because steps reuse the memory of their input."""
        if self.in_memory:
            # Assigned only when complete, so that an error while copying leaves the previous state.
            self.state = jax.tree.map(_copied, train_state)


@contextlib.contextmanager
def carried(kept: Kept, store: checkpoint.Store) -> Generator[None]:
    """Attaches `history` and `state` to every error that leaves a run, also KeyboardInterrupt.

    Args:
      kept: Source of history and state.
      store: Store of the run's checkpoints; a NonFiniteError names the latest.
    """
    try:
        yield
    except NonFiniteError as error:
        message = f"{error}; {_last_good(kept, store)}; lower the learning rate"
        raise carrying(NonFiniteError(message), kept) from None
    except BaseException as error:
        carrying(error, kept)
        raise


def _last_good(kept, store):
    latest = store.latest()
    if latest is not None:
        return f"the last good checkpoint is step {latest} in {store.folder}"
    if kept.state is not None:
        return f"the error's `state` is the last good one, of step {int(kept.state.step)}"
    return "there is no checkpoint"


def carrying(error: BaseException, kept: Kept) -> BaseException:
    """Returns the error with the attributes `history` and `state`, and a note about them."""
    with contextlib.suppress(TypeError):  # a class that takes no further attributes
        vars(error).update(history=kept.history, state=kept.state)
    if kept.state is not None:
        error.add_note(
            f"The error's `history` has {len(kept.history)} records, its `state` is that of step "
            f"{int(kept.state.step)}; train.fit(experiment, state=error.state) goes on from there."
        )
    return error


def goes_on_from(state: TrainState, like: TrainState, mesh: Mesh) -> TrainState:
    """Returns a copy of a train state on a mesh, after checking that it fits the experiment.

    Args:
      state: From an earlier `fit` or an error of it; it stays as it is.
      like: A state of the experiment that goes on.
      mesh: From `run.parallel.data_mesh`.

    Returns:
      The copy, on all devices.

    Raises:
      ValueError: if it is no train state, or its arrays are not those of `like`.
    """
    if not isinstance(state, TrainState):
        raise InputError(
            f"state must be a TrainState, such as the `state` of what fit returned, got a "
            f"{type(state).__name__}"
        )
    there, here = _described(state), _described(like)
    differing = sorted(name for name in {**there, **here} if there.get(name) != here.get(name))
    if differing or jax.tree.structure(state) != jax.tree.structure(like):
        name = differing[0] if differing else "its structure"
        raise InputError(
            f"state does not fit the experiment: {name} is {there.get(name, 'missing')}, due is "
            f"{here.get(name, 'no such array')}"
        )
    return parallel.put(mesh, jax.tree.map(_copied, state))


def _described(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _copied(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
        return x.copy()  # random keys are no arrays of the host
    return np.array(parallel.gather(x) if isinstance(x, jax.Array) else x)
