"""A run's folder: which experiment it belongs to, and that one run alone is at work in it."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Generator
from typing import Any

from quantjax import records

PLACES = ("data_dir", "features_dir")
"""Keys of a config that say where data lie, not what an experiment is."""

_TOLD = 6  # differing keys that a message names
_held: set[pathlib.Path] = set()


@contextlib.contextmanager
def held(workdir: pathlib.Path | None) -> Generator[None]:
    """Keeps other runs out of a folder until left, or until the process ends, however it does.

    Inside itself it does nothing.

    Args:
      workdir: Made if it is not there; None holds nothing.

    Raises:
      ValueError: if another process holds the folder, saying which.
      OSError: if the folder cannot be written to.
    """
    if workdir is None or workdir.resolve() in _held:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise ValueError(
                f"{workdir} is in use by {who}; wait for it, or choose another workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        _held.add(workdir.resolve())
        try:
            yield
        finally:
            _held.discard(workdir.resolve())


def claim(workdir: pathlib.Path, about: dict[str, Any]) -> None:
    """Makes a workdir this experiment's own, or finds that it is.

    Where data lie is not part of what an experiment is: `data_dir` and `features_dir` may differ.

    Args:
      workdir: Made, with config.json in it, if it is not there.
      about: Experiment's name and config, JSON.

    Raises:
      ValueError: naming the keys that differ, if the workdir holds another experiment's config.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
            differing = _differing(flat(there), flat(about))
        except (ValueError, AttributeError, RecursionError):
            raise ValueError(f"{path} is no config of an experiment; choose another") from None
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({differing}); choose another --workdir"
            )
        return
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    records.write_whole(path, json.dumps(about, indent=2, sort_keys=True) + "\n")


def digest(about: dict[str, Any]) -> str:
    """Returns what tells an experiment and its config from others, wherever data lie.

    Args:
      about: See `claim`.
    """
    identity = {**about, "config": {k: v for k, v in about["config"].items() if k not in PLACES}}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


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
