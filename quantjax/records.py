"""What a run reports: metrics.jsonl, one JSON object a line, without gaps or duplicates."""

import collections
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Record = dict[str, Any]


class NonFiniteError(FloatingPointError):
    """A loss, gradient or parameter that is no longer a finite number."""


class Journal(NamedTuple):
    """Takes every step's metrics, and logs some, one step behind the devices.

    Attributes:
      path: metrics.jsonl, or None.
      callbacks: Each is called with every logged record.
      history: Logged records, oldest first.
      pending: Records whose metrics may still be computing.
      last: When the last record was logged: [seconds, step].
    """

    path: pathlib.Path | None
    callbacks: Sequence[Callable[[Record], None]]
    history: list[Record]
    pending: collections.deque[tuple[Record, dict[str, jax.Array], bool]]
    last: list[float]


def open_journal(
    path: pathlib.Path | None, callbacks: Sequence[Callable[[Record], None]], step: int
) -> Journal:
    """Opens a journal that goes on from a step.

    Args:
      path: metrics.jsonl, or None to keep records in memory alone.
      callbacks: Each is called with every logged record.
      step: The step that the run goes on from; later records are dropped from the file.

    Returns:
      The journal, its history read from the file.
    """
    history = [] if path is None else rewind(path, step)
    return Journal(path, callbacks, history, collections.deque(), [time.perf_counter(), step])


def note(journal: Journal, record: Record, metrics: dict[str, jax.Array], *, log: bool) -> None:
    """Takes a step's metrics, and settles the step before it.

    Waiting one step behind keeps the devices busy, and still stops a run one step after a loss
    turned NaN.

    Args:
      journal: From `open_journal`.
      record: "step" and whatever else names the step.
      metrics: Scalars, perhaps still computing.
      log: Whether the step becomes a record; every step is checked.

    Raises:
      NonFiniteError: if the step before was not finite.
    """
    journal.pending.append((record, metrics, log))
    settle(journal, keep=1)


def settle(journal: Journal, *, keep: int = 0) -> None:
    """Waits for pending metrics, checks them and logs those that are due.

    Args:
      journal: From `open_journal`.
      keep: How many of the latest may stay pending.

    Raises:
      NonFiniteError: naming step, epoch, phase and metric.
    """
    while len(journal.pending) > keep:
        record, metrics, log = journal.pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{name} is {value} at {_where(record)}")
        if log:
            now, (before, step) = time.perf_counter(), journal.last
            rate = (record["step"] - step) / max(now - before, 1e-9)
            _log(journal, {**record, **values, "steps_per_second": round(rate, 3)})
            journal.last[:] = [now, record["step"]]


def rewind(path: pathlib.Path, step: int) -> list[Record]:
    """Reads the records up to a step and drops later ones from the file.

    A run that was killed has logged steps that its last checkpoint does not know; they will be
    taken, and logged, again. A line that was cut short goes too.

    Args:
      path: The file; need not exist.
      step: The step that the run goes on from.

    Returns:
      Records whose step is at most `step`, oldest first.
    """
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] > step:
            break
        kept.append(record)
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all.

    Args:
      path: Replaced if it is there.
      text: Its new content.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text)
    os.replace(scratch, path)


def _log(journal, record):
    journal.history.append(record)
    if journal.path is not None:
        with journal.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    for callback in journal.callbacks:
        callback(record)


def _where(record):
    return f"step {record['step']} (epoch {record['epoch']}, phase {record['phase']})"
