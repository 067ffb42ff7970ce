"""3,781 photos of clothing in ten classes; the published test photos search the training photos."""

import functools

from ml_collections import ConfigDict, config_dict

from quantjax import data

from .. import configs
from . import efficientnet, task

FEATURES = {
    **efficientnet.FEATURES,
    "data_dir": config_dict.placeholder(str),  # folder of the data; $QUANTJAX_DATA when None
}
"""Settings of `features`."""

_ORIGIN = "github.com/alexeygrigorev/clothing-dataset-small"


def features(config: ConfigDict) -> task.Task:
    """Returns the task on features of the published EfficientNet-Lite0, which is not trained.

    Args:
      config: Its keys of `FEATURES`, and final, see `configs.splits`.
    """
    splits = configs.splits(config, _splits(config.data_dir))
    return efficientnet.features(config, "clothing", splits)


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
