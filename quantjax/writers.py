"""Records for those who look at curves: TensorBoard and Weights & Biases, where they are there."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Generator
from typing import Any

Write = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def opened(workdir: pathlib.Path, name: str, config: dict[str, Any]) -> Generator[list[Write]]:
    """Opens what there is to write to beside metrics.jsonl.

    TensorBoard's event files go to the workdir's folder "tensorboard" if tensorboardX is
    installed. Weights & Biases gets the run if wandb is installed and WANDB_PROJECT names a
    project: installed alone, nobody has asked to send anything. A run that goes on does so there
    too: TensorBoard drops what came after the step it goes on from.

    Args:
      workdir: Of the run.
      name: Of the experiment.
      config: Shown beside the curves.

    Yields:
      Callbacks for `train.fit`.
    """
    with contextlib.ExitStack() as stack:
        found = []
        if importlib.util.find_spec("tensorboardX") is not None:
            found.append(stack.enter_context(_tensorboard(workdir / "tensorboard")))
        if os.environ.get("WANDB_PROJECT") and importlib.util.find_spec("wandb") is not None:
            found.append(stack.enter_context(_wandb(workdir, name, config)))
        yield found


@contextlib.contextmanager
def _tensorboard(folder):
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

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


@contextlib.contextmanager
def _wandb(workdir, name, config):
    wandb: Any = importlib.import_module("wandb")  # no dependency, not even to check types

    known = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:12]
    run = wandb.init(
        dir=str(workdir), name=workdir.name, group=name, config=config, id=known, resume="allow"
    )

    def write(record):
        values = {f"{group}/{key}": value for group, key, value in _scalars(record)}
        run.log({**values, "step": record["step"]})

    try:
        yield write
    finally:
        run.finish()


def _scalars(record):
    """Yields group, name and value of what can be drawn."""
    group = "epoch" if "after_epoch" in record else "step"
    for key, value in record.items():
        if key not in ("step", "after_epoch") and isinstance(value, int | float):
            yield group, key, value
