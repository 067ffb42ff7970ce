"""Omniglot from a folder of the user: 28 x 28 grey pixels, 242 characters of 8 alphabets.

docs/results.md describes the protocol: which alphabets and drawers train, query and are searched.
"""

import functools

from ml_collections import ConfigDict, config_dict

from quantjax import data, methods, models
from quantjax.data import augment

from . import seen_unseen, task

IMAGES = {
    "data_dir": config_dict.placeholder(str),  # folder of the data; $QUANTJAX_DATA when None
    "channels": (16, 32, 64),  # of the network's three stages
}
"""Settings of `images`."""

EVALUATIONS = IMAGES
"""Settings of `evaluations`; its classes are not drawn."""


def images(config: ConfigDict) -> task.Task:
    """Returns the task whose queries and database are of unseen alphabets.

    A small residual network is trained from scratch, on characters that are rotated, scaled,
    sheared and shifted a little.

    Args:
      config: Its keys of `IMAGES`, and final, see `configs.splits`.
    """
    return evaluations(config)["unseen_in_unseen"]


def evaluations(config: ConfigDict) -> dict[str, task.Task]:
    """Returns the task of `images` for each evaluation of `data.seen_unseen`.

    Args:
      config: Its keys of `EVALUATIONS`, and final, see `configs.splits`.
    """
    splits = data.omniglot_seen_unseen(_source(config.data_dir))
    return seen_unseen.tasks(config, splits, functools.partial(_on_images, config))


def _on_images(config, splits):
    return task.Task(
        splits=splits,
        network=lambda dim: models.patch_resnet(
            (28, 28, 1), patch=2, channels=tuple(config.channels), num_blocks=(1, 1, 1), dim=dim
        ),
        inputs=methods.images,
        # No mirror images: a mirrored character may be another character.
        augment=augment.on_images(
            augment.random_affine(degrees=15.0, scale=0.2, shear=15.0, shift=3.0)
        ),
        # Mean and standard deviation of the training pixels, from 0 to 1.
        preprocess=augment.normalize(mean=(0.08,), std=(0.22,)),
    )


# Cached, so that experiments of one process share the pixels in memory.
@functools.cache
def _source(data_dir):
    return data.omniglot(data_dir)
