"""Tasks with the published EfficientNet-Lite0: on its features, or fine-tuning the network."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, config_dict

from experiments import task
from quantjax import data, methods, models
from quantjax.data import augment
from quantjax.errors import InputError
from quantjax.models import efficientnet_lite, features
from quantjax.run import console, parallel

_PARTS = "--parts=train,validation,test, or --split=80,10,10 where FOLDER has no parts"


def numbers(*, hidden: tuple[int, ...] = (512,), dropout: float = 0.0) -> dict[str, Any]:
    """Returns the settings of a task on features, as part of a config.

    Args:
      hidden: Widths of the hidden layers of the perceptron on features.
      dropout: Share of a feature's entries that training sees as 0.

    Returns:
      Both arguments; image_size, to which images are resized; features_dir, the cache of features;
      and data_dir.
    """
    return {
        "hidden": hidden,
        "dropout": dropout,
        "image_size": 224,
        "features_dir": "runs/features",
        "data_dir": config_dict.placeholder(str),
    }


def cifar10(config: ConfigDict) -> task.Task:
    """Returns the task on features of CIFAR-10 (JPEG), protocol i.

    Args:
      config: Its final, see `task.carved`, and `numbers`.
    """
    source = _cifar10(config.data_dir)
    return _features(config, "cifar10", task.carved(config, data.cifar10_i(source)))


def cifar10_images(config: ConfigDict) -> task.Task:
    """Returns the task that fine-tunes the network on images of CIFAR-10 (JPEG), protocol i.

    In training an image is moved by up to 4 pixels and mirrored or not.

    Args:
      config: Its final, see `task.carved`, data_dir, image_size, to which the network resizes, and
        views, over which embeddings are averaged: "one", the image; "flips", it and its mirror
        image; "ten_crop", it and its four farthest moves, and all their mirror images.

    Raises:
      ValueError: if `views` is unknown.
    """
    splits = task.carved(config, data.cifar10_i(_cifar10(config.data_dir)))
    return _whole(config, splits, padding=4)


def photos(config: ConfigDict) -> task.Task:
    """Returns the task that fine-tunes the network on photos from records, read when needed.

    In training a photo is moved by up to an eighth of its smaller side and mirrored or not.

    Args:
      config: Its records, the folder that `quantjax records` made with --parts; size,
        see `data.from_records`; train, validation ("" for none), query and database, which parts
        these are; final, see `task.carved`; image_size and views, see `cifar10_images`.

    Raises:
      ValueError: if there are no such parts, or as `data.from_records`.
    """
    if config.records is None:
        raise InputError(
            "no photos are given: convert a folder by quantjax records FOLDER OUT "
            f"{_PARTS}, then say --config.records=OUT"
        )
    source = data.from_records(config.records, size=config.size)

    def rows_of(name):
        part = config[name]
        if part not in source.parts:
            raise InputError(
                f"{name} must be one of the parts of {config.records}, "
                f"{', '.join(source.parts) or 'which has none, convert again with ' + _PARTS}; "
                f"got {part!r}"
            )
        return source.parts[part]

    splits = data.make_splits(
        source,
        train=rows_of("train"),
        validation=rows_of("validation") if config.validation else np.zeros(0, np.int64),
        query=rows_of("query"),
        database=rows_of("database"),
        allow_query_overlap=True,  # the audit refuses it, unless the user does not
        name="photos",
    )
    smaller_side = min(source[splits.train[:1]]["image"].shape[1:3])
    return _whole(config, task.carved(config, splits), padding=smaller_side // 8)


def _whole(config, splits, *, padding):
    """Returns a task that fine-tunes the network, with random moves by up to `padding` pixels."""
    known = {
        "one": lambda batch: batch,
        "flips": augment.flips(),
        "ten_crop": functools.partial(_farthest_moves, padding),
    }
    views = task.named("views", config.views, known)
    distort = augment.compose(augment.random_crop(padding=padding), augment.random_flip())
    return task.Task(
        splits=splits,
        network=lambda dim: network(dim, size=config.image_size),
        inputs=methods.images,
        augment=augment.on_images(distort),
        preprocess=views,
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
        return efficientnet_lite.pretrained(*inner.init(key, resized(example)))

    def apply(params, net_state, images, *, train, key=None):
        return inner.apply(params, net_state, resized(images), train=train, key=key)

    return _in_turns(
        models.fine_tuned(models.Network(init, apply), efficientnet_lite.FEATURES, dim=dim)
    )


def clothing(config: ConfigDict) -> task.Task:
    """Returns the task on features of the clothing photos: test photos search training photos.

    Args:
      config: Its final, see `task.carved`, and `numbers`.
    """
    return _features(config, "clothing", task.carved(config, _clothing(config.data_dir)))


def _features(config, name, splits):
    x = _extracted(splits.source, name, config.image_size, config.features_dir)
    return task.of_features(splits, x, hidden=tuple(config.hidden), dropout=config.dropout)


def _farthest_moves(padding, batch):
    around = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    size = batch["image"].shape[1:3]
    padded = {**batch, "image": jnp.pad(batch["image"], around, mode="reflect")}
    crops = augment.ten_crop(size)(padded)
    # The image itself comes first, as training takes the first view.
    return {**crops, "image": crops["image"][:, (4, 0, 1, 2, 3, 9, 5, 6, 7, 8)]}


def _in_turns(network: models.Network) -> models.Network:
    """Wraps a network to embed a few images at a time, which is faster, see `features.ROWS`.

    Training uses whole batches, because adding up the gradients of parts takes long.
    """

    def apply(params, net_state, images, *, train, key=None):
        if train or len(images) % features.ROWS:
            return network.apply(params, net_state, images, train=train, key=key)

        def embed(images):
            return network.apply(params, net_state, images, train=False)[0]

        # A turn takes rows from all over the batch, as many of each device's as of another's.
        turns = images.reshape(features.ROWS, -1, *images.shape[1:]).swapaxes(0, 1)
        out = jax.lax.map(embed, turns)
        return out.swapaxes(0, 1).reshape(len(images), *out.shape[2:]), net_state

    return models.Network(network.init, apply)


@functools.cache
def _extracted(source, name, size, folder):
    path = pathlib.Path(folder) / f"{name}-efficientnet_lite0-{size}.safetensors"
    extractor = features.efficientnet_lite0(size)
    with console.counter(f"features of {name}") as report:
        return features.extract(
            source, extractor, path=path, mesh=parallel.data_mesh(), progress=report
        )


@functools.cache
def _cifar10(data_dir):
    return data.cifar10(data_dir)


@functools.cache
def _clothing(data_dir):
    photos, parts = data.image_folders(
        data.locate(
            data_dir, "clothing", origin="github.com/alexeygrigorev/clothing-dataset-small"
        ),
        ("train", "validation", "test"),
    )
    # 3,781 photos of 128 x 128 pixels: in memory they are decoded once.
    source = data.with_columns(photos)
    train, validation, test = parts
    return data.make_splits(
        source, train=train, validation=validation, query=test, database=train, name="clothing"
    )
