"""Checkpoints of the train state: asynchronous, atomic, checked, restored onto the present mesh."""

import contextlib
import dataclasses
import logging
import pathlib
import warnings
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from quantjax import processes


class DamagedError(RuntimeError):
    """Checkpoints are there, and none of them can be read."""


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of checkpoints of one run; without a folder, every method does nothing.

    Attributes:
      folder: Where they are, or None.
      about: What the run is (JSON); a checkpoint of anything else is refused.
      manager: Orbax's manager of the folder, or None.
      values: How good each step is, of those of which `save` was told.
    """

    folder: pathlib.Path | None
    about: dict[str, Any]
    manager: ocp.CheckpointManager | None
    values: dict[int, float] = dataclasses.field(default_factory=dict)

    def latest(self) -> int | None:
        """Returns the number of the latest step that is saved, or None."""
        return None if self.manager is None else self.manager.latest_step()

    def best(self) -> int | None:
        """Returns the step, the latest of equals, that `save` was given the largest value of."""
        return _best(self.values)

    def save(
        self, step: int, train_state: Any, *, value: float | None = None, replace: bool = False
    ) -> None:
        """Begins to save a train state.

        Args:
          step: Its number.
          train_state: Any pytree of arrays.
          value: How good it is, larger being better; the best is kept whatever its age.
          replace: Whether to save a step anew that is there; it is left alone otherwise.

        Raises:
          OSError: naming the folder, if this or an earlier state could not be written.
        """
        if self.manager is None:
            return
        if step in self.manager.all_steps():
            if not replace:
                return
            self.manager.wait_until_finished()
            self.manager.delete(step)
        leaves = _by_path(train_state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            about=ocp.args.JsonSave(
                {
                    "run": self.about,
                    "leaves": _described(leaves),
                    "checksums": checksums(leaves),
                    "value": value,
                }
            ),
        )
        with _writing(self.folder):
            if value is not None:
                self.values[step] = value
            self.manager.save(step, args=items)

    def restore(self, like: Any, step: int | None = None) -> Any:
        """Restores a step, or the latest that is whole, onto the shardings of a train state.

        What is damaged gets a warning and, where an older step is whole, is put aside into the
        folder's neighbour "damaged", so that the run saves these steps anew.

        Args:
          like: A train state of the same structure on the mesh that is wanted.
          step: Which one; None takes the latest, and goes back to older ones while it is damaged.

        Returns:
          The train state, or None if nothing was saved yet.

        Raises:
          ValueError: if the checkpoint belongs to another experiment, split or network.
          DamagedError: if there are checkpoints, and none of those asked for can be read.
        """
        if self.manager is None:
            return None
        steps = sorted(self.manager.all_steps(), reverse=True) if step is None else [step]
        damaged = []
        for each in steps:
            try:
                restored = self._read(each, like)
            except ValueError as error:
                if isinstance(error, _OtherRunError):
                    raise ValueError(str(error)) from None
                damaged.append((each, error))
            except Exception as error:  # whatever a library says of files that it cannot read
                damaged.append((each, error))
            else:
                if damaged:
                    self._put_aside([number for number, _ in damaged], each)
                return restored
        if not damaged:
            return None
        number, error = damaged[0]
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(
            f"no checkpoint in {self.folder} can be read; step {number}: {what}; "
            "restore the folder, or remove it to start from the beginning"
        )

    def _read(self, step, like):
        assert self.manager is not None
        wanted = _by_path(like)
        about = _about(self.manager, step)
        _check_same(
            f"checkpoint {step} in {self.folder}",
            {**about["run"], **about["leaves"]},
            {**self.about, **_described(wanted)},
        )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in wanted.items()
        }
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        leaves = self.manager.restore(step, args=items)["state"]
        found, due = checksums(leaves), about["checksums"]
        wrong = sorted(name for name in found if found[name] != due[name])
        if wrong:
            raise ValueError(f"its {wrong[0]} is not what was saved")
        return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)

    def _put_aside(self, steps, good):
        assert self.manager is not None
        assert self.folder is not None
        aside = self.folder.parent / "damaged"
        if processes.is_first():
            aside.mkdir(exist_ok=True)
            for step in steps:
                earlier = len([*aside.glob(str(step)), *aside.glob(f"{step}.*")])
                name = f"{step}.{earlier}" if earlier else str(step)
                (self.folder / str(step)).rename(aside / name)
        processes.wait_for_all("put aside")
        self.manager.reload()
        for step in steps:
            self.values.pop(step, None)
        which = ", ".join(map(str, sorted(steps)))
        warnings.warn(
            f"checkpoint {which} is damaged and was put into {aside}; going on from step {good}",
            stacklevel=2,
        )


class _OtherRunError(ValueError):
    pass


@contextlib.contextmanager
def opened(
    folder: pathlib.Path | None, about: dict[str, Any], *, max_to_keep: int = 3
) -> Generator[Store]:
    """Opens a folder of checkpoints, clearing what a killed process left half written.

    Args:
      folder: Made if it is not there; None for a store that keeps nothing.
      about: What the run is (JSON).
      max_to_keep: Older checkpoints are deleted, but for the best.

    Yields:
      The store; on leaving, saves under way are waited for.

    Raises:
      OSError: naming the folder, if it cannot be written to.
    """
    if folder is None:
        yield Store(None, about, None)
        return
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports saves; errors are raised
    values: dict[int, float] = {}
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_LatestAndBest(max_to_keep, values),
        create=True,
        cleanup_tmp_directories=True,
    )
    with _writing(folder):
        manager = ocp.CheckpointManager(folder.resolve(), options=options)
    for step in manager.all_steps():
        with contextlib.suppress(Exception):  # what is damaged is found out when it is restored
            value = _about(manager, step)["value"]
            if value is not None:
                values[step] = value
    try:
        yield Store(folder, about, manager, values)
        with _writing(folder):
            manager.wait_until_finished()
    finally:
        with contextlib.suppress(Exception):  # what went wrong with a save has been told
            manager.close()


@dataclasses.dataclass
class _LatestAndBest:
    """Orbax's question, which checkpoints to keep."""

    latest: int
    values: dict[int, float]

    def should_preserve(self, checkpoints, *, context):
        del context
        steps = [each.step for each in checkpoints]
        best = _best({step: self.values[step] for step in steps if step in self.values})
        kept = {*sorted(steps)[-self.latest :], best}
        return [step in kept for step in steps]


def _best(values):
    return max(values, key=lambda step: (values[step], step), default=None)


def _about(manager, step):
    return manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]


@contextlib.contextmanager
def _writing(folder):
    """Says which folder could not be written to."""
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise OSError(
            cause.errno, f"{cause.strerror or cause}; checkpoints could not be written", str(folder)
        ) from error


def _system_error(error):
    """Returns the error of the operating system behind an exception, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _check_same(what, there, here):
    differing = sorted(key for key in {**there, **here} if there.get(key) != here.get(key))
    if differing:
        some = ", ".join(f"{k} {there.get(k)!r}, not {here.get(k)!r}" for k in differing[:3])
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise _OtherRunError(f"{what} belongs to another run: {some}{more}; choose another workdir")


def checksums(leaves):
    """Returns a number for each leaf, the same on any mesh, that no changed byte leaves alone."""
    return {name: int(value) for name, value in jax.device_get(_sums(leaves)).items()}


@jax.jit
def _sums(leaves):
    def checksum(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if x.dtype == jnp.bool:
            x = x.astype(jnp.uint8)
        width = min(x.dtype.itemsize, 4)
        bits = jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * width}"))
        bits = bits.ravel().astype(jnp.uint32)
        # A change in one entry is multiplied by an odd number, and so is never 0 modulo 2^32.
        place = jax.lax.iota(jnp.uint32, bits.size)
        return jnp.sum(bits * (place * np.uint32(2654435761) | np.uint32(1)), dtype=jnp.uint32)

    return jax.tree.map(checksum, leaves)


def _described(leaves):
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _by_path(train_state):
    # Leaves by path in one flat dict: no library's container types end up on disk.
    leaves = jax.tree_util.tree_leaves_with_path(train_state)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")
