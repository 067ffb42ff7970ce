"""Sends records to TensorBoard and Weights & Biases where the user asked for curves."""

import contextlib
import functools
import hashlib
import importlib
import os
import pathlib
import secrets
import time
import warnings
from collections.abc import Callable, Generator
from typing import Any

from quantjax.errors import InputError, load_package
from quantjax.run import files

Write = Callable[[dict[str, Any]], None]
_PATIENCE = 30.0  # seconds


@contextlib.contextmanager
def opened(
    workdir: pathlib.Path,
    name: str,
    config: dict[str, Any],
    *,
    tensorboard: bool = False,
    wandb: bool = False,
) -> Generator[list[Write]]:
    """Opens the writers of curves that the user asked for, by option or by environment.

    Nothing leaves the machine unasked: Weights & Biases is asked for by `wandb`, or by
    WANDB_PROJECT or WANDB_MODE in the environment; WANDB_MODE=offline keeps the run in the
    workdir's folder "wandb" for `wandb sync`, and WANDB_MODE=disabled turns it off. The package
    then reports neither its errors nor the machine's description. A resumed run continues its
    curves: TensorBoard drops the values after the step that the run resumes from.

    If a writer fails, it gives a warning and is not used again, and if a server cannot be reached,
    the run is kept offline, so that no run is lost for a curve.

    Args:
      workdir: Folder of the run.
      name: Name of the experiment.
      config: Config, shown beside the curves.
      tensorboard: Whether to write TensorBoard's event files to the workdir's "tensorboard".
      wandb: Whether to record the run with Weights & Biases.

    Yields:
      Callbacks for `train.fit`.

    Raises:
      ModuleNotFoundError: if an asked package is not installed.
      ValueError: if Weights & Biases refuses the run, for example without a login.
    """
    found = []
    if tensorboard:
        load_package("tensorboardX", extra="tensorboard", purpose="--tensorboard")
        found.append(_tensorboard(workdir / "tensorboard"))
    asked = wandb or os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_MODE")
    if asked and os.environ.get("WANDB_MODE") != "disabled":
        # Read when the package is imported.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        load_package("wandb", extra="wandb", purpose="Weights & Biases (--wandb or WANDB_...)")
        found.append(_started(functools.partial(_wandb, workdir, name, config)))
    try:
        yield [_forgiving(write) for write, _ in found]
    finally:
        for _, close in found:
            _forgiving(close)()


def _started(begin):
    """Starts a run of Weights & Biases: offline, with a warning, where no server answers."""
    try:
        return begin()
    except Exception as error:  # wandb raises many kinds of errors
        reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
        # `CommError` is wandb's name for a server that is down or out of reach.
        if type(error).__name__ != "CommError":
            raise InputError(
                f"Weights & Biases cannot be sent the run: {reason}; or set WANDB_MODE to offline "
                "or disabled"
            ) from None
    # The package's own process still holds the run's id.
    importlib.import_module("wandb").teardown()
    warnings.warn(
        f"Weights & Biases cannot be reached, the run is kept offline: {reason}", stacklevel=2
    )
    return begin(mode="offline")


def _forgiving(function):
    """Wraps a function so that its first failure becomes a warning and later calls do nothing."""
    failed = False

    def attempt(*args):
        nonlocal failed
        if failed:
            return
        try:
            function(*args)
        except Exception as error:  # of any kind: the writers are other people's code
            failed = True
            warnings.warn(
                f"no more curves are written, {type(error).__name__}: {error}", stacklevel=2
            )

    return attempt


def _tensorboard(folder):
    """Returns functions that write a record to TensorBoard's files and that close the files.

    They write in the calling thread. The package's SummaryWriter writes in a thread of its own: a
    disk that is full for a moment ends that thread, and the run then waits for it forever.
    """
    from tensorboardX.record_writer import RecordWriter

    # Their messages are made when they are imported: no checker of types knows them.
    event: Any = importlib.import_module("tensorboardX.proto.event_pb2")
    summary: Any = importlib.import_module("tensorboardX.proto.summary_pb2")
    writers = []

    def begin(step):
        files.make_plain_folder(folder)
        # The package's own EventsWriter puts the name of the host into the name of the file.
        name = f"events.out.tfevents.{int(time.time())}.{step}"
        writers.append(RecordWriter(str(folder / name)))
        put(0, file_version="brain.Event:2")
        put(step, session_log=event.SessionLog(status=event.SessionLog.START))

    def put(step, **content):
        written = event.Event(wall_time=time.time(), step=step, **content)
        writers[0].write(written.SerializeToString())

    def write(record):
        if not writers:  # only the first record knows which step the run goes on from
            # A record after an epoch belongs to a step that was written before.
            begin(record["step"] + ("after_epoch" in record))
        values = [
            summary.Summary.Value(tag=f"{group}/{key}", simple_value=value)
            for group, key, value in _scalars(record)
        ]
        put(record["step"], summary=summary.Summary(value=values))
        writers[0].flush()

    def close():
        for writer in writers:
            writer.close()

    return write, close


def _wandb(workdir, name, config, **options):
    """Returns functions that write a record to Weights & Biases and that finish the run."""
    wandb: Any = importlib.import_module("wandb")  # no dependency, not even to check types

    # Host name, program, path and the machine's load are nobody's business but the user's.
    quiet = {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
    # How long a run waits for a server that is gone, at its start and at its end.
    limits = {"init_timeout": _PATIENCE, "finish_timeout": _PATIENCE}
    run = wandb.init(
        dir=str(workdir),
        project=os.environ.get("WANDB_PROJECT") or "quantjax",
        name=workdir.name,
        group=name,
        config=config,
        id=_id_of(workdir),
        resume="allow",
        settings=wandb.Settings(
            console="off", save_code=False, disable_git=True, host="unnamed", **quiet, **limits
        ),
        **options,
    )

    def write(record):
        values = {f"{group}/{key}": value for group, key, value in _scalars(record)}
        run.log({**values, "step": record["step"]})

    return write, run.finish


def _id_of(workdir):
    """Returns a run's id: it survives a resume, and a copy of the workdir gets another id."""
    file = workdir / "wandb" / "id"
    files.make_plain_folder(file.parent)
    if not file.exists():
        files.write_text(file, secrets.token_hex(16))
    return hashlib.sha256(
        f"{file.read_text(encoding='utf-8')} {workdir.resolve()}".encode()
    ).hexdigest()[:12]


def _scalars(record):
    """Yields the group, name and value of each number in a record."""
    group = "epoch" if "after_epoch" in record else "step"
    for key, value in record.items():
        if key not in ("step", "after_epoch") and isinstance(value, int | float):
            yield group, key, value
