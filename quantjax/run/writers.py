"""Sends records to TensorBoard and Weights & Biases, if their packages are installed."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import pathlib
import secrets
import time
import warnings
from collections.abc import Callable, Generator
from typing import Any

from quantjax.errors import InputError

Write = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def opened(workdir: pathlib.Path, name: str, config: dict[str, Any]) -> Generator[list[Write]]:
    """Opens writers for TensorBoard and Weights & Biases, if their packages are installed.

    TensorBoard's event files go to the workdir's folder "tensorboard" if tensorboardX is
    installed. If wandb is installed, Weights & Biases records the run. It uploads the run only if
    WANDB_PROJECT or WANDB_MODE is set, since installing a package is no consent to uploads;
    otherwise it keeps the run in the workdir's folder "wandb", for `wandb sync`.
    WANDB_MODE=disabled turns it off. A resumed run continues its curves: TensorBoard drops the
    values after the step that the run resumes from.

    If a writer cannot be opened or fails, it gives a warning and is not used again, so that no run
    is lost for a curve.

    Args:
      workdir: Folder of the run.
      name: Name of the experiment.
      config: Config, shown beside the curves.

    Yields:
      Callbacks for `train.fit`.

    Raises:
      ValueError: if the run should be uploaded to Weights & Biases and cannot be.
    """
    found = []
    if _installed("tensorboardX"):
        _forgiving(lambda: found.append(_tensorboard(workdir / "tensorboard")))()
    if os.environ.get("WANDB_MODE") != "disabled" and _installed("wandb"):
        # Asked for uploads, a failure is an error; unasked, a warning is enough.
        asked = os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_MODE")
        begin = functools.partial(_wandb, workdir, name, config)
        if asked:
            found.append(_sent(begin))
        else:
            _forgiving(lambda: found.append(begin()))()
    try:
        yield [_forgiving(write) for write, _ in found]
    finally:
        for _, close in found:
            _forgiving(close)()


def _installed(name):
    # A folder of that name, such as wandb leaves behind, has a spec too, but no origin.
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _sent(begin):
    """Starts an uploaded run, or raises ValueError with a message of one line."""
    try:
        return begin(resume="allow")
    except Exception as error:  # wandb raises many kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"Weights & Biases cannot be sent the run: {reason.rstrip('.')}; or set WANDB_MODE to "
            "offline or disabled"
        ) from None


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
    from tensorboardX.event_file_writer import EventsWriter

    # Their messages are made when they are imported: no checker of types knows them.
    event: Any = importlib.import_module("tensorboardX.proto.event_pb2")
    summary: Any = importlib.import_module("tensorboardX.proto.summary_pb2")
    writers = []

    def begin(step):
        folder.mkdir(parents=True, exist_ok=True)
        writers.append(EventsWriter(str(folder / "events"), f".{step}"))
        put(step, session_log=event.SessionLog(status=event.SessionLog.START))

    def put(step, **content):
        writers[0].write_event(event.Event(wall_time=time.time(), step=step, **content))

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

    if not options:
        # Nobody asked for Weights & Biases here, so it also prints nothing.
        quiet = wandb.Settings(silent=True, console="off")
        options = {"mode": "offline", "settings": quiet}
    run = wandb.init(
        dir=str(workdir),
        project=os.environ.get("WANDB_PROJECT") or "quantjax",
        name=workdir.name,
        group=name,
        config=config,
        id=_id_of(workdir),
        **options,
    )

    def write(record):
        values = {f"{group}/{key}": value for group, key, value in _scalars(record)}
        run.log({**values, "step": record["step"]})

    return write, run.finish


def _id_of(workdir):
    """Returns a run's id: it survives a resume, and a copy of the workdir gets another id."""
    file = workdir / "wandb" / "id"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(secrets.token_hex(16))
    return hashlib.sha256(f"{file.read_text()} {workdir.resolve()}".encode()).hexdigest()[:12]


def _scalars(record):
    """Yields the group, name and value of each number in a record."""
    group = "epoch" if "after_epoch" in record else "step"
    for key, value in record.items():
        if key not in ("step", "after_epoch") and isinstance(value, int | float):
            yield group, key, value
