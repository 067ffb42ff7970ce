"""Tasks on features of EfficientNet-Lite0, its ImageNet weights as published."""

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from experiments import task
from quantjax import console, data, features, parallel


def cifar10(config: ConfigDict) -> task.Task:
    """Returns CIFAR-10 (JPEG), protocol i.

    Args:
      config: Its final, see `task.carved`, and what `_features` needs.
    """
    source = _cifar10(config.data_dir)
    return _features(config, "cifar10", task.carved(config, data.cifar10_i(source)))


def clothing(config: ConfigDict) -> task.Task:
    """Returns the clothing photos: test photos search the training photos.

    Args:
      config: Its final, see `task.carved`, and what `_features` needs.
    """
    return _features(config, "clothing", task.carved(config, _clothing(config.data_dir)))


def _features(config, name, splits):
    """Extracts features, or reads them, and puts them on the split.

    Config: image_size, to which images are resized, features_dir, where features are kept, and
    hidden and dropout of the perceptron on them.
    """
    x = _extracted(splits.source, name, config.image_size, config.features_dir)
    return task.of_features(splits, x, hidden=tuple(config.hidden), dropout=config.dropout)


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
    columns = photos[np.arange(len(photos))]
    source = data.from_arrays(columns["image"], columns["label"], classes=photos.classes)
    train, validation, test = parts
    return data.make_splits(
        source, train=train, validation=validation, query=test, database=train, name="clothing"
    )
