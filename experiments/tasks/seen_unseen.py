"""Tasks on seen and unseen classes: one training, whose result is evaluated on four splits."""

from collections.abc import Callable

from ml_collections import ConfigDict

from quantjax import data

from .. import configs
from .task import Task


def tasks(
    config: ConfigDict, splits: dict[str, data.Splits], make: Callable[[data.Splits], Task]
) -> dict[str, Task]:
    """Returns a task for each evaluation; they differ in queries and database alone.

    Train on any of them, then evaluate on the splits of each. All share one source, so that its
    features, if there are any, are in memory once.

    Args:
      config: Its final, see `configs.splits`.
      splits: Of `data.seen_unseen` and its kin.
      make: Makes the task of a split.
    """
    chosen = {name: configs.splits(config, each) for name, each in splits.items()}
    task = make(chosen["unseen_in_unseen"])
    source = task.splits.source
    return {
        name: task._replace(splits=each._replace(source=source)) for name, each in chosen.items()
    }
