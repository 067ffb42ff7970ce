"""Logs a run's metrics to metrics.jsonl, one JSON object per line, without gaps or duplicates."""

import collections
import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from quantjax import errors
from quantjax.errors import NonFiniteError
from quantjax.run import files

Record = dict[str, Any]


class History(list[Record]):
    """Lists the logged records, dicts of JSON values, oldest first.

    A record of a step has "step", "epoch", "phase", "loss", "grad_norm" and the method's metrics; a
    record with "after_epoch" has the values that were measured after that epoch.
    """

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame, a row for each record; needs quantjax[notebook]."""
        return errors.load_package("pandas", extra="notebook", purpose="a frame").DataFrame([*self])

    def __repr__(self) -> str:
        if not self:
            return "<History of 0 records>"
        losses = [record["loss"] for record in self if record.get("loss") is not None]
        course = f", loss {losses[0]:.4g} to {losses[-1]:.4g}" if losses else ""
        return f"<History of {len(self)} records up to step {self[-1].get('step')}{course}>"


_MOST_SKIPPED = 100  # skipped steps in a row that end the run
_MOST_QUEUED = 16  # steps that are queued before they are checked
_CHECK_AFTER = 0.25  # seconds after which queued steps are checked, even if they are fewer


@dataclasses.dataclass
class Clock:
    """Measures time and steps since the last logged record.

    Attributes:
      since: Time of the last record, seconds.
      checked: Time of the last wait for metrics, seconds.
      step: Step of the last record.
      waited: Seconds that devices waited for input since the last record.
      told: Durations, by name, that the next record of a step tells once.
      skipped: Number of steps skipped in a row.
    """

    since: float
    checked: float
    step: int
    waited: float = 0.0
    skipped: int = 0
    told: dict[str, float] = dataclasses.field(default_factory=dict)


class Journal(NamedTuple):
    """Queues, checks and logs every step's metrics, one step or more behind the devices.

    Attributes:
      path: metrics.jsonl, or None.
      callbacks: Each is called with every logged record.
      history: Logged records, oldest first.
      pending: Queue of (record, metrics that may still be computing, whether to log them).
      clock: Time and step from which the next record's rates are counted.
      batch_size: Images of a step.
      leaves: By phase, the array names that the metric "leaf" is an index into.
    """

    path: pathlib.Path | None
    callbacks: Sequence[Callable[[Record], None]]
    history: History
    pending: collections.deque[tuple[Record, dict[str, Any], bool]]
    clock: Clock
    batch_size: int
    leaves: Mapping[str, Sequence[str]]


def open_journal(
    path: pathlib.Path | None,
    callbacks: Sequence[Callable[[Record], None]],
    step: int,
    *,
    batch_size: int = 1,
    leaves: Mapping[str, Sequence[str]] | None = None,
) -> Journal:
    """Opens the journal of a run that starts or resumes at a step.

    Args:
      path: metrics.jsonl, or None to keep records in memory alone.
      callbacks: Each is called with every logged record.
      step: The step that the run resumes from; later records are dropped from the file.
      batch_size: Images of a step.
      leaves: By phase, the array names that the metric "leaf" is an index into.

    Returns:
      The journal, its history read from the file.
    """
    history = History([] if path is None else rewind(path, step))
    now = time.perf_counter()
    clock, pending = Clock(now, now, step), collections.deque()
    return Journal(path, callbacks, history, pending, clock, batch_size, leaves or {})


def record_wait(journal: Journal, seconds: float) -> None:
    """Adds the wait for a step's input to the clock, if the devices had no step left to compute.

    Args:
      journal: From `open_journal`.
      seconds: Duration of the wait, which ends now.
    """
    if not journal.pending or all(x.is_ready() for x in journal.pending[-1][1].values()):
        journal.clock.waited += seconds


def note(journal: Journal, name: str, seconds: float) -> None:
    """Adds a duration to the next record of a step.

    Args:
      journal: From `open_journal`.
      name: Name in the record.
      seconds: The duration.
    """
    told = journal.clock.told
    told[name] = round(told.get(name, 0.0) + seconds, 3)


@contextlib.contextmanager
def left_out(journal: Journal, name: str) -> Generator[None]:
    """Leaves the time in the context out of the next rates, and notes it.

    Args:
      journal: From `open_journal`.
      name: Name of the time in the next record of a step.
    """
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    journal.clock.since += seconds
    note(journal, name, seconds)


def queue(journal: Journal, record: Record, metrics: dict[str, jax.Array], *, log: bool) -> None:
    """Queues one step's metrics; when a log line is due, waits for earlier steps and writes it.

    Waiting one step behind keeps the devices busy. Steps that are not logged are checked with the
    next logged step, or after `_CHECK_AFTER` seconds or `_MOST_QUEUED` steps: waiting for each of
    many short steps would take several percent of the time of devices and host.

    Args:
      journal: From `open_journal`.
      record: "step" and other entries that identify the step.
      metrics: Scalars, perhaps still computing. "skipped" above 0 marks a skipped step. "leaf", if
        0 or more, is the index of the first array that is not finite.
      log: Whether to log the step; every step is checked, and a skipped step is always logged.

    Raises:
      NonFiniteError: if an earlier step was not finite, or too many steps in a row were skipped.
    """
    behind = len(journal.pending)
    due = behind > 0 and journal.pending[-1][2]
    journal.pending.append((record, metrics, log))
    # By time too: if steps are long, a NaN must be found after one step, not after sixteen.
    late = time.perf_counter() - journal.clock.checked > _CHECK_AFTER
    if due or late or behind == _MOST_QUEUED:
        flush(journal, keep=1)


def flush(journal: Journal, *, keep: int = 0) -> None:
    """Flushes the queue: waits for metrics, checks them and writes the log lines that are due.

    Args:
      journal: From `open_journal`.
      keep: Number of latest steps that stay in the queue.

    Raises:
      NonFiniteError: if a step was not finite, or too many steps in a row were skipped; the message
        names step, epoch, phase, metric and array.
    """
    taken = [journal.pending.popleft() for _ in range(len(journal.pending) - keep)]
    found = [metrics for _, metrics, _ in taken]
    # Devices run steps in order: when the last is done, all are.
    jax.block_until_ready(found[-1:])
    # On CPUs nothing needs a copy, and `device_get` takes ten times longer than the reads below.
    if jax.default_backend() != "cpu":
        found = jax.device_get(found)
    journal.clock.checked = time.perf_counter()
    for (record, _, log), metrics in zip(taken, found, strict=True):
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        skipped = values.pop("skipped", 0.0) > 0
        leaf = _leaf(journal, record, int(values.pop("leaf", -1)))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        # The loss first: it is the likeliest cause, and the other metrics follow from it.
        wrong.sort(key=lambda name: name != "loss")
        if skipped:
            journal.clock.skipped += 1
            wrong = wrong or [leaf or "the new state"]
            record = {**record, "skipped": ", ".join(wrong)}
            # JSON has neither NaN nor infinity.
            values = {name: None if name in wrong else value for name, value in values.items()}
            if journal.clock.skipped == _MOST_SKIPPED:
                raise NonFiniteError(
                    f"{_MOST_SKIPPED} steps in a row were skipped, {wrong[0]} not being finite, "
                    f"up to {_where(record)}{_in(leaf)}"
                )
        else:
            journal.clock.skipped = 0
            if wrong:
                raise NonFiniteError(
                    f"{wrong[0]} is {values[wrong[0]]} at {_where(record)}{_in(leaf)}"
                )
        if log:
            log_record(journal, {**record, **values, **_rates(journal, record["step"])})
        elif skipped:
            log_record(journal, {**record, **values})


def log_record(journal: Journal, record: Record) -> None:
    """Writes a record, with the time, to the file, the history and the callbacks.

    Args:
      journal: From `open_journal`; call `flush` first, so that records stay in order.
      record: JSON with a "step".
    """
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    record = {**record, "time": moment}
    journal.history.append(record)
    if journal.path is not None:
        with files.opened_plain(journal.path, "a") as file:
            file.write(json.dumps(record) + "\n")
    for callback in journal.callbacks:
        callback(record)


def sync(journal: Journal) -> None:
    """Flushes the logged records to disk, so that no later checkpoint outlives them.

    Args:
      journal: From `open_journal`.
    """
    if journal.path is not None and journal.path.exists():
        with files.opened_plain(journal.path, "a") as file:
            os.fsync(file.fileno())


def rewind(path: pathlib.Path, step: int) -> list[Record]:
    """Reads the records up to a step and drops later ones from the file.

    A killed run has logged steps after its last checkpoint. The resumed run takes and logs these
    steps again. An incomplete last line is dropped too. Other lines that cannot be read are moved
    to a file beside, with a warning.

    Args:
      path: The file; need not exist.
      step: The step that the run resumes from.

    Returns:
      Records whose step is at most `step`, oldest first.
    """
    found, bad = _parsed(path)
    # Stops at the first later record: the file is in the order of time, and steps may repeat.
    kept = list(itertools.takewhile(lambda record: record["step"] <= step, found))
    if bad:
        aside = path.with_name(f"{path.name}.unreadable")
        with files.opened_plain(aside, "a") as file:
            file.writelines(f"{line.decode(errors='backslashreplace')}\n" for line in bad)
        warnings.warn(
            f"{path}: {len(bad)} lines could not be read and were moved to {aside.name}",
            stacklevel=2,
        )
    if path.exists():
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def read(path: pathlib.Path) -> list[Record]:
    """Reads the records of a file, without lines that cannot be read.

    Args:
      path: The file; need not exist.

    Returns:
      The records, oldest first.
    """
    return _parsed(path)[0]


def _parsed(path):
    """Returns the records, and the unreadable lines but for an incomplete last one."""
    found, bad = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for line in lines:
        try:
            record = json.loads(line)
            valid = isinstance(record["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            valid = False
        if valid:
            found.append(record)
        elif line.strip():
            bad.append(line)
    # A killed process leaves its last line without an end.
    return found, bad[:-1] if bad and lines[-1] == bad[-1] else bad


def _rates(journal, step):
    """Returns the rates since the last record, and restarts the clock."""
    clock, now = journal.clock, time.perf_counter()
    seconds = max(now - clock.since, 1e-9)
    rate = (step - clock.step) / seconds
    found = {
        "steps_per_second": round(rate, 3),
        "images_per_second": round(rate * journal.batch_size, 1),
        "data_wait": round(min(clock.waited / seconds, 1.0), 4),
        **clock.told,
    }
    clock.told.clear()
    clock.since, clock.step, clock.waited = now, step, 0.0
    memory = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in memory if "peak_bytes_in_use" in each]
    if peaks:
        found["device_memory_peak"] = max(peaks)  # the fullest device runs out first
    return found


def _leaf(journal, record, number):
    names = journal.leaves.get(record.get("phase", ""), ())
    return names[number] if 0 <= number < len(names) else None


def _in(leaf):
    return f"; the first array that is not finite: {leaf}" if leaf else ""


def _where(record):
    return f"step {record['step']} (epoch {record['epoch']}, phase {record['phase']})"
