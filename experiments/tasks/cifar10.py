"""CIFAR-10 (JPEG), protocol i: 32 x 32 colour pixels, from a folder that the user has.

"JPEG" because the public copy that was at hand went through JPEG, so that numbers of the original
pixels may differ.
"""

import functools

from ml_collections import ConfigDict, config_dict

from quantjax import data, methods, models
from quantjax.data import augment

from .. import configs
from . import efficientnet, seen_unseen, task

IMAGES = {
    "data_dir": config_dict.placeholder(str),  # folder of the data; $QUANTJAX_DATA when None
}
"""Settings of `images`."""

FEATURES = {**efficientnet.FEATURES, **IMAGES}
"""Settings of `features`."""

FINETUNED = {**efficientnet.FINETUNED, **IMAGES}
"""Settings of `finetuned`."""

EVALUATIONS = FEATURES
"""Settings of `evaluations`."""


def images(config: ConfigDict) -> task.Task:
    """Returns the task on images, with a small residual network that is trained from scratch.

    In training an image is moved by up to 4 pixels, mirrored or not, and loses a square.

    Args:
      config: Its keys of `IMAGES`, and final, see `configs.splits`.
    """
    return task.Task(
        splits=_splits(config),
        network=lambda dim: models.patch_resnet(
            (32, 32, 3), patch=2, channels=(32, 64, 128), num_blocks=(1, 1, 1), dim=dim
        ),
        inputs=methods.images,
        augment=augment.on_images(
            augment.compose(
                augment.random_crop(padding=4),
                augment.random_flip(),
                augment.random_erase(size=8, fill=120),  # about the mean pixel
            )
        ),
        # Mean and standard deviation of the training pixels of each colour, from 0 to 1.
        preprocess=augment.normalize(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
    )


def features(config: ConfigDict) -> task.Task:
    """Returns the task on features of the published EfficientNet-Lite0, which is not trained.

    Args:
      config: Its keys of `FEATURES`, and final, see `configs.splits`.
    """
    return efficientnet.features(config, "cifar10", _splits(config))


def evaluations(config: ConfigDict) -> dict[str, task.Task]:
    """Returns the task of `features` for each evaluation of `data.seen_unseen`.

    Args:
      config: Its keys of `EVALUATIONS`, seed, which draws the classes, and final.
    """
    splits = data.cifar10_seen_unseen(_source(config.data_dir), seed=config.seed)
    make = functools.partial(efficientnet.features, config, "cifar10")
    return seen_unseen.tasks(config, splits, make)


def finetuned(config: ConfigDict) -> task.Task:
    """Returns the task that trains all layers of the published EfficientNet-Lite0 further.

    In training an image is moved by up to 4 pixels and mirrored or not.

    Args:
      config: Its keys of `FINETUNED`, and final, see `configs.splits`.

    Raises:
      ValueError: if `views` is unknown.
    """
    return efficientnet.finetuned(config, _splits(config), padding=4)


def _splits(config):
    return configs.splits(config, data.cifar10_i(_source(config.data_dir)))


# Cached, so that experiments of one process share the pixels in memory.
@functools.cache
def _source(data_dir):
    return data.cifar10(data_dir)
