"""Records for those who look at curves: TensorBoard and Weights & Biases, where they are there."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Callable, Generator
from typing import Any

Write = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def opened(workdir: pathlib.Path, name: str, config: dict[str, Any]) -> Generator[list[Write]]:
    """Opens what there is to write to beside metrics.jsonl.

    TensorBoard's event files go to the workdir's folder "tensorboard" if tensorboardX is
    installed. Weights & Biases has the run if wandb is installed: it is sent if WANDB_PROJECT or
    WANDB_MODE say so, and else kept in the workdir's folder "wandb", for `wandb sync`, since
    whoever has installed a package has not asked to send anything. WANDB_MODE=disabled turns it
    off. A run that goes on does so there too: TensorBoard drops what came after the step it goes on
    from.

    A writer that fails is told of in a warning and not written to again: no run is lost for a
    curve.

    Args:
      workdir: Of the run.
      name: Of the experiment.
      config: Shown beside the curves.

    Yields:
      Callbacks for `train.fit`.

    Raises:
      ValueError: if Weights & Biases is to be sent the run and cannot be.
    """
    found = []
    if importlib.util.find_spec("tensorboardX") is not None:
        found.append(_tensorboard(workdir / "tensorboard"))
    off = os.environ.get("WANDB_MODE") == "disabled"
    if not off and importlib.util.find_spec("wandb") is not None:
        found.append(_wandb(workdir, name, config))
    try:
        yield [_forgiving(write) for write, _ in found]
    finally:
        for _, close in found:
            _forgiving(close)()


def _forgiving(function):
    """Returns a function that warns of its first failure, and does nothing from then on."""
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
    """Returns a function that writes a record, and one that ends it."""
    from tensorboardX import SummaryWriter

    writers = []

    def write(record):
        if not writers:  # only the first record knows which step the run goes on from
            writers.append(
                SummaryWriter(
                    str(folder),
                    # A record after an epoch belongs to a step that was written before.
                    purge_step=record["step"] + ("after_epoch" in record),
                    max_queue=0,  # no limit: a full disk ends its thread, and a full queue waits
                )
            )
        for group, key, value in _scalars(record):
            writers[0].add_scalar(f"{group}/{key}", value, record["step"])

    def close():
        for writer in writers:
            writer.close()

    return write, close


def _wandb(workdir, name, config):
    """Returns a function that writes a record, and one that ends it."""
    wandb: Any = importlib.import_module("wandb")  # no dependency, not even to check types

    project = os.environ.get("WANDB_PROJECT")
    if project or os.environ.get("WANDB_MODE"):
        options: dict[str, Any] = {"resume": "allow"}
    else:
        # Unasked, it says nothing either.
        quiet = wandb.Settings(silent=True, console="off")
        options = {"mode": "offline", "settings": quiet}
    try:
        run = wandb.init(
            dir=str(workdir),
            project=project or "quantjax",
            name=workdir.name,
            group=name,
            config=config,
            id=hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:12],
            **options,
        )
    except wandb.Error as error:
        raise ValueError(
            f"Weights & Biases cannot be sent the run: {str(error).rstrip('.')}; or set WANDB_MODE "
            "to offline or disabled"
        ) from None

    def write(record):
        values = {f"{group}/{key}": value for group, key, value in _scalars(record)}
        run.log({**values, "step": record["step"]})

    return write, run.finish


def _scalars(record):
    """Yields group, name and value of what can be drawn."""
    group = "epoch" if "after_epoch" in record else "step"
    for key, value in record.items():
        if key not in ("step", "after_epoch") and isinstance(value, int | float):
            yield group, key, value
