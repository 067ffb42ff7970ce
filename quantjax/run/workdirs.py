"""Locks a run's folder and checks which experiment it belongs to."""

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

from quantjax.errors import InputError, MissingFileError, few
from quantjax.run import encodings, files, processes

PLACES = ("data_dir", "features_dir", "records")
"""Config keys that give the location of data and are not part of the experiment's identity."""

CONFIG = "config.json"
"""File of a workdir that holds the experiment's name and config."""

LOCK = ".lock"
"""Lock file of a workdir; it names the process that holds the lock."""

_COURSE = ("extended", "init_from")  # entries of config.json about how the run came about
_NOTHING = {"lost+found"}  # entries of a new, empty disk
_PATIENCE = 30  # seconds until a new file must show on other hosts
_TOLD = 6  # most differing keys that a message names
_held: set[tuple[pathlib.Path, int]] = set()  # folders, and the threads that hold them


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Generator[None]:
    """Locks a folder against other runs until the context or the process ends.

    The lock is reentrant: a second lock of the same folder in the same thread does nothing.

    Args:
      workdir: Created if it does not exist.

    Raises:
      ValueError: if another process or thread holds the lock; the message names it.
      OSError: if the folder cannot be written to.
    """
    # By thread: two threads of one process must not share a workdir either.
    here = workdir.resolve(), threading.get_ident()
    if here in _held:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with files.opened_plain(workdir / LOCK, "a+") as file:
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
        # Only now, with the lock: the text before names the process that holds it.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.time()}")
        file.flush()
        _held.add(here)
        try:
            yield
        finally:
            # The host's name is for those who wait, and not for those who read the run later.
            file.truncate(0)
            _held.discard(here)


@contextlib.contextmanager
def held_by_all(workdir: pathlib.Path) -> Generator[None]:
    """Locks a folder from process 0 and checks that all processes see the same folder.

    Args:
      workdir: See `held`.

    Raises:
      ValueError: in every process, if another run holds the lock, the processes do not share the
        folder, or checkpoints cannot be written under its name.
    """
    with contextlib.ExitStack() as stack:

        def hold():
            encodings.check_path(workdir)
            stack.enter_context(held(workdir))
            return (workdir / LOCK).read_text(encoding="utf-8")

        # The lock's text holds host, process and time, so an equal text means the same folder.
        token = processes.from_first(hold)
        missing = not _is_there(workdir / LOCK, token)
        if processes.all_agree(missing):
            who = f"process {processes.number()} sees" if missing else "others see"
            raise InputError(f"{workdir} must be one folder for all processes; {who} another")
        yield


def _is_there(path, content):
    """Returns whether a file has the content within `_PATIENCE` s: shared disks show it late."""
    deadline = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text(encoding="utf-8") == content):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def check_free(workdir: pathlib.Path) -> None:
    """Raises ValueError if a folder is not empty and holds no run; hidden files do not count.

    Args:
      workdir: Need not exist.

    Raises:
      ValueError: if the folder holds files but no config of a run, or cannot be a folder.
    """
    nearest = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file, not a folder; choose another workdir")
    if (workdir / CONFIG).exists() or not workdir.exists():
        return
    if any(path.name not in _NOTHING and path.name[0] != "." for path in workdir.iterdir()):
        raise InputError(f"{workdir} is not empty and holds no run; choose another workdir")


def claim(workdir: pathlib.Path, about: dict[str, Any]) -> None:
    """Writes an experiment's config into a workdir, or checks the config that it already holds.

    Args:
      workdir: Created, with config.json in it, if it does not exist.
      about: See `check_config`.

    Raises:
      ValueError: as `check_config`, or if the folder holds files but no run.
    """
    if check_claim(workdir, about):
        return
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, about)


def write_config(workdir: pathlib.Path, about: dict[str, Any]) -> None:
    """Writes the config.json of a workdir, which this process has locked; see `check_config`."""
    files.write_text(workdir / CONFIG, json.dumps(about, indent=2, sort_keys=True) + "\n")


def check_claim(workdir: pathlib.Path, about: dict[str, Any]) -> bool:
    """Checks that an experiment may claim a workdir; to be called before the lock is written.

    Args:
      workdir: Need not exist.
      about: See `check_config`.

    Returns:
      Whether the workdir has a config, which is then the given one.

    Raises:
      ValueError: as `check_config`, or if the folder holds files but no run.
    """
    if check_config(workdir, about):
        return True
    check_free(workdir)
    return False


def check_config(workdir: pathlib.Path, about: dict[str, Any]) -> bool:
    """Checks that a workdir's config, if it has a config, is that of the given experiment.

    The keys of `PLACES` may differ: the location of data is not part of an experiment's identity.

    Args:
      workdir: Need not exist.
      about: Experiment's name and config, and the digest of a source that has one, JSON. The
        parameters that a run started from, "init_from", are compared where they are given.

    Returns:
      Whether the workdir has a config.

    Raises:
      ValueError: if the workdir holds another experiment's config; the message names the keys that
        differ.
    """
    if not (workdir / CONFIG).exists():
        return False
    there = read_config(workdir)
    there = {key: value for key, value in there.items() if key in about or key not in _COURSE}
    differing = _differing(flat(there), flat(about))
    if differing:
        raise InputError(
            f"{workdir} holds a run of another config ({differing}); choose another workdir"
        )
    return True


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the experiment's name and config from the workdir of a run.

    Args:
      workdir: Folder of the run.

    Returns:
      The dict that `claim` wrote: "experiment", "config", and maybe "source", "init_from" and
      "extended".

    Raises:
      FileNotFoundError: if the workdir has no config.json.
      ValueError: if config.json is damaged.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise MissingFileError(f"{workdir} has no {CONFIG}; it holds no run of an experiment file")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        about = None
    valid = isinstance(about, dict) and isinstance(about.get("config"), dict)
    if not valid or not isinstance(about.get("extended", []), list):
        raise InputError(f"{path} is no config of an experiment; choose another folder")
    return about


def digest(about: dict[str, Any]) -> str:
    """Returns the SHA-256, in hex, of an experiment's name and config without data locations.

    Args:
      about: See `claim`.
    """
    # Two copies of the data in two places are one experiment, and one default workdir.
    identity = {**about, "config": without_places(about["config"])}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config without the keys that give the location of data."""
    return {key: value for key, value in config.items() if key not in PLACES}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested dict into a dict with dotted keys."""
    found = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return found


def _differing(there, here):
    # Both sides: a key that only one config has differs too.
    keys = sorted({*there, *here} - {f"config.{place}" for place in PLACES})
    keys = [key for key in keys if there.get(key) != here.get(key)]
    told = (
        f"{_short(key.removeprefix('config.'))} is {_short(repr(there.get(key)))} there, "
        f"{_short(repr(here.get(key)))} here"
        for key in keys
    )
    return few(told, _TOLD)


def _short(text):
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
