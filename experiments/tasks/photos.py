"""Your own photos, from ArrayRecord files that `quantjax records` wrote, read batch by batch.

    quantjax records FOLDER OUT --parts=train,validation,test --size=128
    python -m experiments.dqn photos --config.records=OUT

FOLDER has a folder for each part and in it one for each class. By default the part "test" searches
"train"; --config.query, --config.database and the like name others. There may be more photos than
memory holds. Without --size their files are stored as they are; --config.size=PX then says to what
they are resized and cropped.

Photos that are equal, pixel for pixel, are listed in WORKDIR/equal_images.txt; where more than one
query in a hundred has an equal photo in another part, the run is refused unless
--max_equal_images=SHARE says otherwise. A query or a searched photo needs no label.
"""

import numpy as np
from ml_collections import ConfigDict, config_dict

from quantjax import data
from quantjax.errors import InputError

from .. import configs
from . import efficientnet, task

FINETUNED = {
    **efficientnet.FINETUNED,
    "records": config_dict.placeholder(str),  # folder that `quantjax records` made with --parts
    "size": config_dict.placeholder(int),  # height and width, see `data.from_records`
    # Names of the parts; "" for no validation set.
    "train": "train",
    "validation": "validation",
    "query": "test",
    "database": "train",
}
"""Settings of `finetuned`."""

_PARTS = "--parts=train,validation,test, or --split=80,10,10 where FOLDER has no parts"


def finetuned(config: ConfigDict) -> task.Task:
    """Returns the task that trains all layers of the published EfficientNet-Lite0 further.

    In training a photo is moved by up to an eighth of its smaller side and mirrored or not.

    Args:
      config: Its keys of `FINETUNED`, and final, see `configs.splits`.

    Raises:
      ValueError: if there are no such parts, or as `data.from_records`.
    """
    if config.records is None:
        raise InputError(
            "no photos are given: convert a folder by quantjax records FOLDER OUT "
            f"{_PARTS}, then say --config.records=OUT"
        )
    source = data.from_records(config.records, size=config.size)
    none = np.zeros(0, np.int64)
    splits = data.make_splits(
        source,
        train=_rows_of(config, "train", source),
        validation=_rows_of(config, "validation", source) if config.validation else none,
        query=_rows_of(config, "query", source),
        database=_rows_of(config, "database", source),
        allow_query_overlap=True,  # the audit refuses it, unless the user does not
        name="photos",
    )
    smaller_side = min(source[splits.train[:1]]["image"].shape[1:3])
    return efficientnet.finetuned(config, configs.splits(config, splits), padding=smaller_side // 8)


def _rows_of(config, key, source):
    """Returns the rows of the part that the config names for a list of the split."""
    part = config[key]
    if part not in source.parts:
        raise InputError(
            f"{key} must be one of the parts of {config.records}, "
            f"{', '.join(source.parts) or 'which has none, convert again with ' + _PARTS}; "
            f"got {part!r}"
        )
    return source.parts[part]
