"""3,781 photos of clothing in ten classes; the published test photos search the training photos."""

import functools

from ml_collections import ConfigDict, config_dict

from quantjax import data

from .. import configs
from . import efficientnet, seen_unseen, task

FEATURES = {
    **efficientnet.FEATURES,
    "data_dir": config_dict.placeholder(str),  # folder of the data; $QUANTJAX_DATA when None
}
"""Settings of `features`."""

EVALUATIONS = FEATURES
"""Settings of `evaluations`."""

_ORIGIN = "github.com/alexeygrigorev/clothing-dataset-small"


def features(config: ConfigDict) -> task.Task:
    """Returns the task on features of the published EfficientNet-Lite0, which is not trained.

    Args:
      config: Its keys of `FEATURES`, and final, see `configs.splits`.
    """
    splits = configs.splits(config, _splits(config.data_dir))
    return efficientnet.features(config, "clothing", splits)


def evaluations(config: ConfigDict) -> dict[str, task.Task]:
    """Returns the task of `features` for each evaluation of `data.seen_unseen`.

    Of the photos of each class, whichever part they were published in, 25 are queries and 50 are
    searched; classes are unequal, and so are the rows that train.

    Args:
      config: Its keys of `EVALUATIONS`, seed, which draws the classes, and final.
    """
    drawn = data.seen_unseen(
        _splits(config.data_dir).source,
        query_per_class=25,
        database_per_class=50,
        train_per_class=None,
        validation_per_class=10,
        seed=config.seed,
    )
    named = {name: each._replace(name=f"clothing_{name}") for name, each in drawn.items()}
    make = functools.partial(efficientnet.features, config, "clothing")
    return seen_unseen.tasks(config, named, make)


# Cached, so that experiments of one process share the pixels in memory.
@functools.cache
def _splits(data_dir):
    photos, parts = data.image_folders(
        data.locate(data_dir, "clothing", origin=_ORIGIN), ("train", "validation", "test")
    )
    # Few enough for memory at 128 x 128 pixels, where they are decoded only once.
    source = data.with_columns(photos)
    train, validation, test = parts
    return data.make_splits(
        source, train=train, validation=validation, query=test, database=train, name="clothing"
    )
