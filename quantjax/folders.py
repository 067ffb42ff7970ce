"""A run's folder: which experiment it belongs to, and that one run alone is at work in it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import threading
import time
import warnings
from collections.abc import Generator
from typing import Any

from quantjax import processes, records
from quantjax.errors import InputError, MissingFileError

PLACES = ("data_dir", "features_dir", "records")
"""Keys of a config that say where data lie, not what an experiment is."""

CONFIG = "config.json"
"""File of a workdir that says which experiment it belongs to."""

LOCK = ".lock"
"""File of a workdir that says who is at work in it."""

_NOTHING = {"lost+found"}  # what a fresh volume holds
_PATIENCE = 30  # seconds that a file may take to be seen by other hosts
_TOLD = 6  # differing keys that a message names
_held: set[tuple[pathlib.Path, int]] = set()  # folders, and the threads that hold them


@contextlib.contextmanager
def held(workdir: pathlib.Path | None) -> Generator[None]:
    """Keeps other runs out of a folder until left, or until the process ends, however it does.

    Inside itself, in one thread, it does nothing.

    Args:
      workdir: Made if it is not there; None holds nothing.

    Raises:
      ValueError: if another process or thread holds the folder, saying which.
      OSError: if the folder cannot be written to.
    """
    if workdir is None:
        yield
        return
    here = workdir.resolve(), threading.get_ident()
    if here in _held:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                warnings.warn(
                    f"{workdir} cannot be locked ({error.strerror}): see to it that one run alone "
                    "is at work in it",
                    stacklevel=3,
                )
                yield
                return
            if not isinstance(error, BlockingIOError):
                raise
            file.seek(0)
            who = file.read().strip() or "another process"
            raise InputError(
                f"{workdir} is in use by {who}; wait for it, or choose another workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.time()}")
        file.flush()
        _held.add(here)
        try:
            yield
        finally:
            _held.discard(here)


@contextlib.contextmanager
def held_by_all(workdir: pathlib.Path | None) -> Generator[None]:
    """Holds a folder by the first process, and makes sure that all see the same folder.

    Args:
      workdir: See `held`.

    Raises:
      ValueError: in every process, if another run holds it, or they do not share it.
    """
    with contextlib.ExitStack() as stack:

        def hold():
            stack.enter_context(held(workdir))
            return None if workdir is None else (workdir / LOCK).read_text()

        token = processes.from_first(hold)
        missing = workdir is not None and not _is_there(workdir / LOCK, token)
        if processes.all_agree(missing):
            where = (
                f"process {processes.number()} sees another" if missing else "others see another"
            )
            raise InputError(f"{workdir} must be one folder for all processes; {where}")
        yield


def _is_there(path, content):
    """Tells whether a file has a content, or gets it soon: shared disks tell of it with delay."""
    deadline = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text() == content):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def check_free(workdir: pathlib.Path) -> None:
    """Refuses a folder that holds other things than a run; hidden files do not count.

    Args:
      workdir: Need not exist.

    Raises:
      ValueError: if it holds other things.
    """
    if (workdir / CONFIG).exists() or not workdir.exists():
        return
    if any(path.name not in _NOTHING and path.name[0] != "." for path in workdir.iterdir()):
        raise InputError(f"{workdir} is not empty and holds no run; choose another workdir")


def claim(workdir: pathlib.Path, about: dict[str, Any]) -> None:
    """Makes a workdir this experiment's own, or finds that it is.

    Args:
      workdir: Made, with config.json in it, if it is not there.
      about: See `check_config`.

    Raises:
      ValueError: as `check_config`, or if the folder holds other things than a run.
    """
    if check_config(workdir, about):
        return
    check_free(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    records.write_whole(workdir / CONFIG, json.dumps(about, indent=2, sort_keys=True) + "\n")


def check_config(workdir: pathlib.Path, about: dict[str, Any]) -> bool:
    """Compares an experiment with the one whose config a workdir keeps.

    Where data lie is not part of what an experiment is: keys of `PLACES` may differ.

    Args:
      workdir: Need not exist.
      about: Experiment's name and config, and the digest of a source that has one, JSON.

    Returns:
      Whether the workdir keeps a config at all.

    Raises:
      ValueError: naming the keys that differ, if the workdir holds another experiment's config.
    """
    if not (workdir / CONFIG).exists():
        return False
    differing = _differing(flat(read_config(workdir)), flat(about))
    if differing:
        raise InputError(
            f"{workdir} holds a run of another config ({differing}); choose another workdir"
        )
    return True


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads what a run says of its experiment.

    Args:
      workdir: Of the run.

    Returns:
      What `claim` wrote: "experiment", "config", and maybe "source".

    Raises:
      FileNotFoundError: if there is no config.json.
      ValueError: if it is damaged.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise MissingFileError(f"{workdir} has no {CONFIG}; it holds no run of an experiment file")
    try:
        about = json.loads(path.read_text())
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise InputError(f"{path} is no config of an experiment; choose another folder")
    return about


def digest(about: dict[str, Any]) -> str:
    """Returns what tells an experiment and its config from others, wherever data lie.

    Args:
      about: See `claim`.
    """
    identity = {**about, "config": without_places(about["config"])}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config without the keys that say where data lie."""
    return {key: value for key, value in config.items() if key not in PLACES}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested dict as one of dotted keys."""
    found = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return found


def _differing(there, here):
    keys = sorted({*there, *here} - {f"config.{place}" for place in PLACES})
    keys = [key for key in keys if there.get(key) != here.get(key)]
    told = [
        f"{_short(key.removeprefix('config.'))} is {_short(repr(there.get(key)))} there, "
        f"{_short(repr(here.get(key)))} here"
        for key in keys[:_TOLD]
    ]
    more = [f"and {len(keys) - _TOLD} more"] if len(keys) > _TOLD else []
    return ", ".join(told + more)


def _short(text):
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
