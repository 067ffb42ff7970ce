"""Saves the train state in asynchronous, atomic, checked checkpoints and restores it."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import time
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from quantjax.errors import DamagedError, FileError, few
from quantjax.run import checkpoint_files, files, processes, sealing

if TYPE_CHECKING:  # importing Orbax takes longer than importing all of quantjax
    import orbax.checkpoint as ocp


@dataclasses.dataclass
class Store:
    """Keeps the checkpoints of one run in a folder; without a folder, every method does nothing.

    Attributes:
      folder: Folder of the checkpoints, or None.
      about: Description of the run (JSON); `restore` rejects a checkpoint of another run.
      manager: Orbax's manager of the folder, or None.
      values: Validation value of each step, larger is better; the best step is always kept.
      since: Time when the last save began, or the folder was opened, by `time.monotonic`.
    """

    folder: pathlib.Path | None
    about: dict[str, Any]
    manager: "ocp.CheckpointManager | None"
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    since: float = dataclasses.field(default_factory=time.monotonic)

    def latest(self) -> int | None:
        """Returns the number of the latest saved step, or None without a saved step."""
        return None if self.manager is None else self.manager.latest_step()

    def save(self, step: int, train_state: Any) -> None:
        """Starts saving a train state in the background; a step that is saved already is skipped.

        Args:
          step: Number of the step.
          train_state: Any pytree of arrays.

        Raises:
          OSError: naming the folder, if this or an earlier state could not be written.
        """
        # A restart at the same step would write the same bytes again, and Orbax would refuse.
        if self.manager is not None and step in _steps(self.manager):
            return
        self.since = time.monotonic()
        if self.manager is None:
            return
        import orbax.checkpoint as ocp

        # A flat dict, so that later versions of a library can change its container types.
        leaves = sealing.by_path(train_state)
        about = {
            "run": self.about,
            "leaves": sealing.described(leaves),
            "checksums": sealing.checksums(leaves),
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), about=ocp.args.JsonSave(sealing.sealed(about))
        )
        with _writing(self.folder):
            # Orbax returns False, and raises nothing, for a step before the latest.
            if not self.manager.save(step, args=items):
                raise FileError(f"step {step} was not saved: {self.folder} shows later ones")

    def wait(self) -> None:
        """Waits until all started saves are complete on disk.

        Raises:
          OSError: naming the folder, if a state could not be written.
        """
        if self.manager is not None:
            with _writing(self.folder):
                self.manager.wait_until_finished()

    def restore(self, like: Any, step: int | None = None) -> Any:
        """Restores a step, or the latest undamaged step, onto the shardings of a train state.

        A damaged checkpoint causes a warning. If an older step is undamaged, the damaged
        checkpoint moves to the neighbouring folder "damaged", so that the run saves its step anew.

        Args:
          like: A train state of the same structure on the target mesh.
          step: Number of the step; None takes the latest, and older steps while it is damaged.

        Returns:
          The train state, or None if no step was saved yet.

        Raises:
          ValueError: if the checkpoint belongs to another experiment, split or network.
          DamagedError: if checkpoints exist and no requested checkpoint can be read.
        """
        if self.manager is None:
            return None
        steps = _steps(self.manager) if step is None else [step]
        damaged = []
        # The latest step comes first; damaged steps are remembered for the warning or the error.
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
        what = files.one_line(error or "another process could not read it")
        raise DamagedError(
            f"no checkpoint in {self.folder} can be read; step {number}: {what}; "
            "restore the folder, or remove it to start from the beginning"
        )

    def _read(self, step, like):
        """Returns (True, the state), or (False, the error) if a step's files are damaged."""
        assert self.folder is not None
        wanted, path = sealing.by_path(like), self.folder / str(step)

        def check(about):
            _check_same(
                f"checkpoint {step} in {self.folder}",
                {**about["run"], **about["leaves"]},
                {**self.about, **sealing.described(wanted)},
            )

        fine, found = checkpoint_files.try_reading(path, wanted, check)
        return fine, sealing.with_leaves(like, found) if fine else found

    def _put_aside(self, steps, good):
        assert self.manager is not None
        assert self.folder is not None
        aside, folder = self.folder.parent / "damaged", self.folder

        def move():
            files.make_plain_folder(aside)
            for step in steps:
                # The same step may have been damaged before; keep the earlier copy too.
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


_PATIENCE = 30  # seconds until a change of a shared folder must show on all hosts


def _steps(manager):
    """Returns the saved steps as process 0 sees them, the latest first."""
    return processes.from_first(lambda: sorted(map(int, manager.all_steps()), reverse=True))


@contextlib.contextmanager
def opened(
    folder: pathlib.Path | None,
    about: dict[str, Any],
    *,
    max_to_keep: int = 3,
    read_only: bool = False,
) -> Generator[Store]:
    """Opens a folder of checkpoints and deletes half-written checkpoints of a killed process.

    Args:
      folder: Created if it does not exist; None gives a store that keeps nothing.
      about: Description of the run (JSON).
      max_to_keep: Number of latest checkpoints to keep besides the best. Links are kept too.
      read_only: Whether to change nothing in the folder, because another run may be using it.

    Yields:
      The store. On exit, the context waits for started saves.

    Raises:
      OSError: naming the folder, if it cannot be written to.
    """
    if folder is None:
        yield Store(None, about, None)
        return
    import orbax.checkpoint as ocp

    values: dict[int, float] = {}
    settings: dict[str, Any]
    if read_only:
        settings = {"read_only": True, "create": False, "save_interval_steps": 0}
    else:
        kept = _LatestAndBest(folder, max_to_keep, values)
        settings = {"preservation_policy": kept, "create": True, "cleanup_tmp_directories": True}
    options = ocp.CheckpointManagerOptions(**settings)
    with _quiet_orbax():
        with _writing(folder):
            manager = ocp.CheckpointManager(folder.resolve(), options=options)
        try:
            store = Store(folder, about, manager, values)
            yield store
            store.wait()
        finally:
            with contextlib.suppress(Exception):  # errors of saves were raised before
                manager.close()
            if not read_only and processes.is_first():
                _forget_places(folder)


def _forget_places(folder):
    """Takes the folder's path out of the files by which Orbax says that it wrote a checkpoint."""
    for depth in ("*", "*/*"):
        for path in folder.glob(f"{depth}/commit_success.txt"):
            with contextlib.suppress(OSError):  # Orbax looks for the file, and not into it
                files.write_text(path, "Checkpoint commit was successful\n")


@contextlib.contextmanager
def _quiet_orbax():
    """Drops Orbax's log lines, which report every save; Orbax's errors are raised all the same."""
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
    """Tells Orbax to keep the latest checkpoints and the best, and to leave links alone."""

    folder: pathlib.Path
    latest: int
    values: dict[int, float]

    def should_preserve(self, checkpoints, *, context):
        del context
        steps = [each.step for each in checkpoints]
        kept = {*sorted(steps)[-self.latest :], checkpoint_files.best_step(self.values, steps)}
        # Someone keeps a linked step elsewhere; Orbax would fail to remove it, and end the run.
        return [step in kept or (self.folder / str(step)).is_symlink() for step in steps]


@contextlib.contextmanager
def _writing(folder):
    """Turns an operating-system error into a FileError that names the folder."""
    try:
        yield
    except Exception as error:
        cause = checkpoint_files.system_error(error)
        if cause is None:
            raise
        raise FileError(
            cause, f"{os.strerror(cause)}; checkpoints could not be written", str(folder)
        ) from error


def _check_same(what, there, here):
    differing = sorted(key for key in {**there, **here} if there.get(key) != here.get(key))
    if differing:
        told = few((f"{k} {there.get(k)!r}, not {here.get(k)!r}" for k in differing), 3)
        raise checkpoint_files.OtherRunError(
            f"{what} belongs to another run: {told}; choose another workdir"
        )
