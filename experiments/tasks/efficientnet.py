"""The published EfficientNet-Lite0 in a task: as a fixed extractor of features, or fine-tuned.

It needs the extra `pretrained`: pip install -e ".[pretrained]".
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from quantjax import data, methods, models
from quantjax.data import augment
from quantjax.models import efficientnet_lite
from quantjax.models import features as extraction
from quantjax.run import console, parallel

from .. import configs
from . import task

FEATURES = {
    "hidden": (512,),  # widths of the hidden layers of the perceptron on features
    "dropout": 0.0,  # share of a feature's entries that training sees as 0
    "image_size": 224,  # height and width to which images are resized for the network
    "features_dir": "runs/features",  # cache of the features
}
"""Settings of `features`, without the place of the data."""

FINETUNED = {
    "image_size": 96,  # height and width to which the network resizes
    # Over which views embeddings are averaged: "one", the image; "flips", it and its mirror image;
    # "ten_crop", it and its four farthest moves, and all their mirror images.
    "views": "one",
}
"""Settings of `finetuned`, without the place of the data."""


def features(config: ConfigDict, name: str, splits: data.Splits) -> task.Task:
    """Returns the task on features of the network, extracted once and kept in a file.

    Args:
      config: Its keys of `FEATURES`.
      name: Name of the data, for the file.
      splits: The images.
    """
    source: Any = splits.source  # hashable, as all sources of `quantjax.data` are
    x = _extracted(source, name, config.image_size, config.features_dir)
    return task.on_features(splits, x, hidden=tuple(config.hidden), dropout=config.dropout)


def finetuned(config: ConfigDict, splits: data.Splits, *, padding: int) -> task.Task:
    """Returns the task that trains all layers, on images that are moved and maybe mirrored.

    Args:
      config: Its keys of `FINETUNED`.
      splits: The images.
      padding: Pixels by which training and the view "ten_crop" move an image at most.

    Raises:
      ValueError: if `views` is unknown.
    """
    known = {
        "one": lambda batch: batch,
        "flips": augment.flips(),
        "ten_crop": functools.partial(_farthest_moves, padding),
    }
    distort = augment.compose(augment.random_crop(padding=padding), augment.random_flip())
    return task.Task(
        splits=splits,
        network=lambda dim: network(dim, size=config.image_size),
        inputs=methods.images,
        augment=augment.on_images(distort),
        # The network itself resizes and normalises.
        preprocess=configs.choice(config, "views", known),
        licence=efficientnet_lite.licence(),
    )


def network(dim: int, *, size: int) -> models.Network:
    """Returns the published EfficientNet-Lite0, all layers trainable, with a new bottleneck.

    Args:
      dim: D.
      size: Height and width to which it resizes images, bilinear.

    Returns:
      The network: images [B, H, W, 3] of 0 to 255 -> [B, D]. Its `init` raises ModuleNotFoundError
      if the extra `pretrained` is not installed.
    """
    inner = models.efficientnet_lite0((size, size, 3))

    def resized(images):
        shape = (len(images), size, size, images.shape[-1])
        large = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "linear")
        return efficientnet_lite.normalize(large)

    def init(key, example):
        # The published weights replace the random ones, whose shapes they must have.
        return efficientnet_lite.pretrained(*inner.init(key, resized(example)))

    def apply(params, net_state, images, *, train, key=None):
        return inner.apply(params, net_state, resized(images), train=train, key=key)

    return _in_turns(
        models.fine_tuned(models.Network(init, apply), efficientnet_lite.FEATURES, dim=dim)
    )


def _in_turns(network: models.Network) -> models.Network:
    """Wraps a network to embed `features.ROWS` images at a time, which is faster, see there.

    Training uses whole batches, because adding up the gradients of parts takes long.
    """

    def apply(params, net_state, images, *, train, key=None):
        if train or len(images) % extraction.ROWS:
            return network.apply(params, net_state, images, train=train, key=key)

        def embed(images):
            return network.apply(params, net_state, images, train=False)[0]

        # A turn takes rows from all over the batch, as many of each device's as of another's.
        turns = images.reshape(extraction.ROWS, -1, *images.shape[1:]).swapaxes(0, 1)
        out = jax.lax.map(embed, turns)
        return out.swapaxes(0, 1).reshape(len(images), *out.shape[2:]), net_state

    return models.Network(network.init, apply)


def _farthest_moves(padding, batch):
    """Returns ten views of each image: itself, its four farthest moves, and their mirror images."""
    around = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    size = batch["image"].shape[1:3]
    padded = {**batch, "image": jnp.pad(batch["image"], around, mode="reflect")}
    crops = augment.ten_crop(size)(padded)
    # The image itself comes first, as training takes the first view.
    return {**crops, "image": crops["image"][:, (4, 0, 1, 2, 3, 9, 5, 6, 7, 8)]}


# Cached, so that experiments of one process read the file once.
@functools.cache
def _extracted(source, name, size, folder):
    """Returns features [N, 1280] of all images, from the file of an earlier run if it is there."""
    path = pathlib.Path(folder) / f"{name}-efficientnet_lite0-{size}.safetensors"
    extractor = extraction.efficientnet_lite0(size)
    with console.counter(f"features of {name}") as report:
        return extraction.extract(
            source, extractor, path=path, mesh=parallel.data_mesh(), progress=report
        )
