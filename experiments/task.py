"""Tasks: a data split with fitting network, inputs and augmentation, for any method."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from quantjax import data, methods, models, train
from quantjax.batch import Augment, Preprocess
from quantjax.data import augment, protocols
from quantjax.errors import InputError
from quantjax.models import features


class Task(NamedTuple):
    """Data split with the network, inputs and augmentation that fit it.

    Attributes:
      splits: Splits of the images; with a column "feature" if `inputs` selects it.
      network: D -> a network from inputs to [B, D], for this data.
      inputs: Selects the network's input from a batch.
      augment: `(key, batch) -> batch`, in training, before `preprocess`.
      preprocess: `batch -> batch`, of every batch.
    """

    splits: data.Splits
    network: Callable[[int], models.Network]
    inputs: methods.Inputs
    augment: Augment
    preprocess: Preprocess


def of_images(
    splits: data.Splits,
    network: Callable[[int], models.Network],
    *,
    distort: augment.Transform,
    prepare: Preprocess,
) -> Task:
    """Returns a task on images.

    Args:
      splits: The images.
      network: D -> a network from images to [B, D].
      distort: Augmentation of images in training, before `prepare`.
      prepare: Preprocessing of all batches.
    """
    return Task(
        splits=splits,
        network=network,
        inputs=methods.images,
        augment=augment.on_images(distort),
        preprocess=prepare,
    )


def of_features(
    splits: data.Splits, x: np.ndarray, *, hidden: tuple[int, ...], dropout: float = 0.0
) -> Task:
    """Returns a task on features, centred on the training rows and scaled to length sqrt(F).

    Args:
      splits: Splits of the images.
      x: Features [N, F] of all rows of the source.
      hidden: Widths of a perceptron's hidden layers.
      dropout: Share of a feature's entries set to 0 in training; the others are scaled up.

    Raises:
      ValueError: if dropout is not in 0 to 1.
    """
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be 0 or more and below 1, got {dropout}")
    x = x - x[splits.train].mean(axis=0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = x * np.float32(np.sqrt(x.shape[1])) / np.maximum(length, np.finfo(np.float32).tiny)
    source = features.with_features(splits.source, x)

    def drop(key, batch):
        kept = jax.random.bernoulli(key, 1 - dropout, batch["feature"].shape)
        return {**batch, "feature": batch["feature"] * kept / (1 - dropout)}

    return Task(
        splits=splits._replace(source=source),
        network=lambda dim: models.mlp(x.shape[1:], hidden=hidden, dim=dim),
        inputs=methods.features,
        augment=drop if dropout else lambda key, batch: batch,
        preprocess=lambda batch: batch,
    )


def of_pixels(splits: data.Splits, *, hidden: tuple[int, ...] = (512,)) -> Task:
    """Returns a task on rows of pixels from 0 to 1, without centring or scaling.

    Args:
      splits: The images.
      hidden: Widths of a perceptron's hidden layers.
    """
    image = splits.source[np.arange(len(splits.source))]["image"]
    x = image.reshape(len(image), -1) / np.float32(255)
    return Task(
        splits=splits._replace(source=features.with_features(splits.source, x)),
        network=lambda dim: models.mlp(x.shape[1:], hidden=hidden, dim=dim),
        inputs=methods.features,
        augment=lambda key, batch: batch,
        preprocess=lambda batch: batch,
    )


def configured(config: ConfigDict, network: models.Network) -> models.Network:
    """Returns a network with the config's precision and microbatches.

    Args:
      config: Its precision, "float32" or "bfloat16", and microbatch, rows at a time or None.
      network: Any network.

    Raises:
      ValueError: if precision is unknown, or microbatch below 1.
    """
    network = models.in_precision(network, config.precision)
    return network if config.microbatch is None else models.microbatched(network, config.microbatch)


def carved(config: ConfigDict, splits: protocols.Splits) -> protocols.Splits:
    """Returns the splits to train on: the protocol's, or its final form without validation set.

    Args:
      config: Its final: False to choose settings on the validation set, True to train on it as well
        after all settings are chosen.
      splits: The protocol, with its validation part.
    """
    return protocols.final(splits) if config.final else splits


def named(key: str, word: str, known: dict[str, Any]) -> Any:
    """Returns the object that a word in a config names.

    Args:
      key: Key of the config.
      word: Value of the key.
      known: Objects by word.

    Raises:
      ValueError: if the word is unknown.
    """
    if word not in known:
        raise InputError(f"{key} must be one of {', '.join(known)}, got {word!r}")
    return known[word]


def steps_per_epoch(config: ConfigDict, num_train: int) -> int:
    """Returns the number of steps in an epoch of shuffled batches.

    Args:
      config: Its batch_size.
      num_train: Number of training images.

    Raises:
      ValueError: if batch_size is below 1, or one batch does not fit.
    """
    return len(data.shuffled(num_train, config.batch_size)(0, 0))


def wire(
    config: ConfigDict,
    name: str,
    task: Task,
    method: methods.Method,
    optimizers: dict[str, optax.GradientTransformation],
    sampler: data.Sampler | None = None,
) -> train.Experiment:
    """Builds the experiment that trains a method on a task.

    Args:
      config: Its seed, num_epochs and batch_size.
      name: The experiment's name.
      task: Images or features to learn from.
      method: The method to train.
      optimizers: Optimizer of each entry of the method's params.
      sampler: Sampler of batches; shuffled batches when None.

    Returns:
      The experiment for `train.fit`.
    """
    return train.Experiment(
        name=name,
        method=method,
        splits=task.splits,
        sampler=sampler or data.shuffled(len(task.splits.train), config.batch_size),
        augment=task.augment,
        preprocess=task.preprocess,
        optimizers=optimizers,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        config=json.loads(config.to_json()),
    )
