"""Task on Fashion-MNIST, protocol i, as images or as rows of pixels."""

import functools

from ml_collections import ConfigDict

from experiments import task
from quantjax import data, models
from quantjax.data import augment


def images(config: ConfigDict) -> task.Task:
    """Returns the task on images with a small residual network, trained from scratch.

    Args:
      config: Its final, see `task.carved`, data_dir and channels, the width of each stage.
    """
    return task.of_images(
        _splits(config),
        lambda dim: models.patch_resnet(
            (28, 28, 1), patch=2, channels=tuple(config.channels), num_blocks=(1, 1, 1), dim=dim
        ),
        distort=augment.compose(
            augment.random_crop(padding=2, mode="constant"),
            augment.random_flip(),
            augment.random_erase(size=8),
        ),
        prepare=augment.normalize(mean=(0.286,), std=(0.353,)),
    )


def pixels(config: ConfigDict) -> task.Task:
    """Returns the task on rows of pixels from 0 to 1.

    Args:
      config: Its final, see `task.carved`, and data_dir.
    """
    return task.of_pixels(_splits(config))


def _splits(config):
    return task.carved(config, data.fashion_mnist_i(_source(config.data_dir)))


@functools.cache
def _source(data_dir):
    return data.fashion_mnist(data_dir)
