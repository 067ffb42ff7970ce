"""Checkpoints of the train state: asynchronous, atomic, checked, restored onto the present mesh."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
import time
import warnings
from collections.abc import Generator
from typing import Any

import jax
import orbax.checkpoint as ocp

from quantjax import processes, sealing
from quantjax.errors import DamagedError, FileError, InputError


@dataclasses.dataclass
class Store:
    """A folder of checkpoints of one run; without a folder, every method does nothing.

    Attributes:
      folder: Where they are, or None.
      about: What the run is (JSON); a checkpoint of anything else is refused.
      manager: Orbax's manager of the folder, or None.
      values: How good steps are, larger being better; the best is kept whatever its age.
      since: When the last save began, or the folder was opened, by `time.monotonic`.
    """

    folder: pathlib.Path | None
    about: dict[str, Any]
    manager: ocp.CheckpointManager | None
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    since: float = dataclasses.field(default_factory=time.monotonic)

    def latest(self) -> int | None:
        """Returns the number of the latest step that is saved, or None."""
        return None if self.manager is None else self.manager.latest_step()

    def best(self) -> int | None:
        """Returns the saved step of the largest value, the latest of equals, or None."""
        return None if self.manager is None else _best(self.values, _steps(self.manager))

    def save(self, step: int, train_state: Any) -> None:
        """Begins to save a train state; a step that is there already is left alone.

        Args:
          step: Its number.
          train_state: Any pytree of arrays.

        Raises:
          OSError: naming the folder, if this or an earlier state could not be written.
        """
        if self.manager is not None and step in _steps(self.manager):
            return
        self.since = time.monotonic()
        if self.manager is None:
            return
        leaves = sealing.by_path(train_state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            about=ocp.args.JsonSave(
                sealing.sealed(
                    {
                        "run": self.about,
                        "leaves": sealing.described(leaves),
                        "checksums": sealing.checksums(leaves),
                    }
                )
            ),
        )
        with _writing(self.folder):
            if not self.manager.save(step, args=items):
                raise FileError(f"step {step} was not saved: {self.folder} shows later ones")

    def wait(self) -> None:
        """Waits until all that was saved is whole.

        Raises:
          OSError: naming the folder, if a state could not be written.
        """
        if self.manager is not None:
            with _writing(self.folder):
                self.manager.wait_until_finished()

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
        steps = _steps(self.manager) if step is None else [step]
        damaged = []
        for each in steps:
            fine, found = self._read(each, like)
            if fine:
                if damaged:
                    self._put_aside([number for number, _ in damaged], each)
                return found
            damaged.append((each, found))
        if not damaged:
            return None
        number, error = damaged[0]
        what = " ".join(str(error or "another process could not read it").split())[:200]
        raise DamagedError(
            f"no checkpoint in {self.folder} can be read; step {number}: {what}; "
            "restore the folder, or remove it to start from the beginning"
        )

    def _read(self, step, like):
        """Returns True and the state, or False and what is wrong with the files of a step.

        What one process cannot read, all leave alone: each tells the others before they go on.
        """
        assert self.manager is not None
        assert self.folder is not None
        wanted = sealing.by_path(like)
        leaves, about, error = {}, {}, None
        try:
            about = _about(self.folder / str(step))
            _check_same(
                f"checkpoint {step} in {self.folder}",
                {**about["run"], **about["leaves"]},
                {**self.about, **sealing.described(wanted)},
            )
            abstract = {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
                for name, leaf in wanted.items()
            }
            leaves = _arrays(self.folder / str(step), abstract)
        except Exception as caught:  # whatever a library says of files that it cannot read
            error = _unwrapped(caught, self.folder / str(step))
        outcome = processes.all_agree(_kind(error))
        if outcome in (_NO_DAMAGE, _OTHER_RUN):
            if error is not None:
                raise error
            raise InputError(f"another process cannot go on from checkpoint {step}")
        if outcome == _DAMAGED:
            return False, error
        found, due = sealing.checksums(leaves), about["checksums"]
        wrong = sorted(name for name in found if found[name] != due.get(name))
        if processes.all_agree(len(wrong)):
            return False, InputError(f"its {wrong[0]} is not what was saved") if wrong else None
        state = jax.tree_util.tree_map_with_path(
            lambda path, _: leaves[sealing.name_of(path)], like
        )
        return True, state

    def _put_aside(self, steps, good):
        assert self.manager is not None
        assert self.folder is not None
        aside, folder = self.folder.parent / "damaged", self.folder

        def move():
            aside.mkdir(exist_ok=True)
            for step in steps:
                earlier = len([*aside.glob(str(step)), *aside.glob(f"{step}.*")])
                name = f"{step}.{earlier}" if earlier else str(step)
                (folder / str(step)).rename(aside / name)

        processes.from_first(move)
        # Another host may see the folder as it was for a while.
        patience = time.monotonic() + _PATIENCE
        self.manager.reload()
        while set(steps) & set(self.manager.all_steps()) and time.monotonic() < patience:
            time.sleep(0.1)
            self.manager.reload()
        which = ", ".join(map(str, sorted(steps)))
        warnings.warn(
            f"checkpoint {which} is damaged and was put into {aside}; going on from step {good}",
            stacklevel=2,
        )


_DAMAGED, _NO_DAMAGE, _OTHER_RUN = 1, 2, 3
_PATIENCE = 30  # seconds that a folder may take to look alike on all hosts


def _kind(error):
    """Returns whether what was raised in reading is damage, and how it is to be told."""
    if error is None:
        return 0
    if isinstance(error, _OtherRunError):
        return _OTHER_RUN
    # A disk or a memory that fails today says nothing of the files.
    away = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    if away or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
        return _NO_DAMAGE
    return _DAMAGED


def _unwrapped(error, path):
    """Returns the error of the operating system that tensorstore tells of in words, if it does."""
    if isinstance(error, OSError):
        return error
    found = [code for each in _chain(error) if (code := _code_in_words(each))]
    return OSError(found[0], os.strerror(found[0]), str(path)) if found else error


def _code_in_words(error):
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _steps(manager):
    """Returns the steps that the first process sees, the latest first."""
    return processes.from_first(lambda: sorted(map(int, manager.all_steps()), reverse=True))


class _OtherRunError(InputError):
    pass


@contextlib.contextmanager
def opened(
    folder: pathlib.Path | None,
    about: dict[str, Any],
    *,
    max_to_keep: int = 3,
    read_only: bool = False,
) -> Generator[Store]:
    """Opens a folder of checkpoints, clearing what a killed process left half written.

    Args:
      folder: Made if it is not there; None for a store that keeps nothing.
      about: What the run is (JSON).
      max_to_keep: Older checkpoints are deleted, but for the best.
      read_only: Whether to leave everything as it is, as another run may be at work there.

    Yields:
      The store; on leaving, saves under way are waited for.

    Raises:
      OSError: naming the folder, if it cannot be written to.
    """
    if folder is None:
        yield Store(None, about, None)
        return
    values: dict[int, float] = {}
    options = (
        ocp.CheckpointManagerOptions(read_only=True, create=False)
        if read_only
        else ocp.CheckpointManagerOptions(
            preservation_policy=_LatestAndBest(max_to_keep, values),
            create=True,
            cleanup_tmp_directories=True,
        )
    )
    with _quiet_orbax():
        with _writing(folder):
            manager = ocp.CheckpointManager(folder.resolve(), options=options)
        try:
            store = Store(folder, about, manager, values)
            yield store
            store.wait()
        finally:
            with contextlib.suppress(Exception):  # what went wrong with a save has been told
                manager.close()


@contextlib.contextmanager
def _quiet_orbax():
    """Drops what orbax logs, which reports every save; errors are raised, and other logs stay."""
    logger = logging.getLogger("absl")

    def from_others(record):
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(from_others)
    try:
        yield
    finally:
        logger.removeFilter(from_others)


@dataclasses.dataclass
class _LatestAndBest:
    """Orbax's question, which checkpoints to keep."""

    latest: int
    values: dict[int, float]

    def should_preserve(self, checkpoints, *, context):
        del context
        steps = [each.step for each in checkpoints]
        kept = {*sorted(steps)[-self.latest :], _best(self.values, steps)}
        return [step in kept for step in steps]


def _best(values, steps):
    rated = [step for step in steps if step in values]
    return max(rated, key=lambda step: (values[step], step), default=None)


# Orbax's manager would wait for the other processes here, unless this one cannot read.
def _about(folder):
    return sealing.unsealed(json.loads((folder / "about" / "metadata").read_text()))


def _arrays(folder, abstract):
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        args = ocp.args.StandardRestore(abstract)
        return handler.restore((folder / "state").resolve(), args=args)


@contextlib.contextmanager
def _writing(folder):
    """Says which folder could not be written to."""
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise FileError(
            cause, f"{os.strerror(cause)}; checkpoints could not be written", str(folder)
        ) from error


def _system_error(error):
    """Returns the number of the operating system's error behind an exception, if there is one."""
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else _code_in_words(each)
        if number is not None:
            return number
    return None


def _chain(error):
    """Yields an exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_same(what, there, here):
    differing = sorted(key for key in {**there, **here} if there.get(key) != here.get(key))
    if differing:
        some = ", ".join(f"{k} {there.get(k)!r}, not {here.get(k)!r}" for k in differing[:3])
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise _OtherRunError(f"{what} belongs to another run: {some}{more}; choose another workdir")
