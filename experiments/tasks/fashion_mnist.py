"""Fashion-MNIST from a folder of the user, by protocol i: 28 x 28 grey pixels.

docs/results.md describes the protocols: which images train, query and are searched.
"""

import functools

from ml_collections import ConfigDict, config_dict

from quantjax import data, methods, models
from quantjax.data import augment

from .. import configs
from . import seen_unseen, task

PIXELS = {
    "data_dir": config_dict.placeholder(str),  # folder of the data; $QUANTJAX_DATA when None
}
"""Settings of `pixels`."""

IMAGES = {
    **PIXELS,
    "channels": (16, 32, 64),  # of the network's three stages
}
"""Settings of `images`."""

EVALUATIONS = IMAGES
"""Settings of `evaluations`."""


def images(config: ConfigDict) -> task.Task:
    """Returns the task on images, with a small residual network that is trained from scratch.

    In training an image is moved by up to 2 pixels, mirrored or not, and loses a square.

    Args:
      config: Its keys of `IMAGES`, and final, see `configs.splits`.
    """
    return _on_images(config, _splits(config))


def evaluations(config: ConfigDict) -> dict[str, task.Task]:
    """Returns the task of `images` for each evaluation of `data.seen_unseen`.

    Args:
      config: Its keys of `EVALUATIONS`, seed, which draws the classes, and final.
    """
    source = _source(config.data_dir)
    splits = data.fashion_mnist_seen_unseen(source, seed=config.seed)
    return seen_unseen.tasks(config, splits, functools.partial(_on_images, config))


def pixels(config: ConfigDict) -> task.Task:
    """Returns the task on rows of 784 pixels from 0 to 1, for methods that learn from features.

    Args:
      config: Its keys of `PIXELS`, and final, see `configs.splits`.
    """
    return task.on_pixels(_splits(config))


def _on_images(config, splits):
    return task.Task(
        splits=splits,
        network=lambda dim: models.patch_resnet(
            (28, 28, 1), patch=2, channels=tuple(config.channels), num_blocks=(1, 1, 1), dim=dim
        ),
        inputs=methods.images,
        augment=augment.on_images(
            augment.compose(
                # Padded with black, which is the background of all images.
                augment.random_crop(padding=2, mode="constant"),
                augment.random_flip(),
                augment.random_erase(size=8),
            )
        ),
        # Mean and standard deviation of the training pixels, from 0 to 1.
        preprocess=augment.normalize(mean=(0.286,), std=(0.353,)),
    )


def _splits(config):
    return configs.splits(config, data.fashion_mnist_i(_source(config.data_dir)))


# Cached, so that experiments of one process share the pixels in memory.
@functools.cache
def _source(data_dir):
    return data.fashion_mnist(data_dir)
