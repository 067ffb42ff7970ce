"""Tasks: a data split with the network, inputs and augmentation that suit it, for any method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from quantjax import data, methods, models
from quantjax.batch import Augment, Preprocess
from quantjax.errors import InputError
from quantjax.models import features


class Task(NamedTuple):
    """Data split with the network, inputs and augmentation that suit it.

    Attributes:
      splits: Splits of the images; with a column "feature" if `inputs` selects it.
      network: Function of D that returns a network, which maps inputs to embeddings [B, D].
      inputs: Selects the network's input from a batch.
      augment: `(key, batch) -> batch`, in training, before `preprocess`.
      preprocess: `batch -> batch`, of every batch.
      licence: Text of the licence of published weights that the network starts from, or None.
    """

    splits: data.Splits
    network: Callable[[int], models.Network]
    inputs: methods.Inputs
    augment: Augment
    preprocess: Preprocess
    licence: str | None = None


class OnData(NamedTuple):
    """A row of a method's table `DATA_SETS`: the task, and the method's settings on it.

    Attributes:
      task: Function of the config that returns the task, or a task for each search by name.
      settings: Keys of the config that the task reads, and values for the method that suit this
        data; they extend or replace the defaults of `get_config`.
    """

    task: Callable[[ConfigDict], Any]
    settings: dict[str, Any]


def on_features(
    splits: data.Splits, x: np.ndarray, *, hidden: tuple[int, ...], dropout: float = 0.0
) -> Task:
    """Returns a task on features, centred on the training rows and scaled to length sqrt(F).

    Args:
      splits: Splits of the images.
      x: Features [N, F] of all rows of the source.
      hidden: Widths of a perceptron's hidden layers.
      dropout: Share of a feature's entries set to 0 in training; the others are scaled up.

    Raises:
      ValueError: if dropout is below 0, or 1 or more.
    """
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be 0 or more and below 1, got {dropout}")
    x = x - x[splits.train].mean(axis=0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    # A feature that equals the mean stays zero; length sqrt(F) makes the entries about 1.
    x = x * np.float32(np.sqrt(x.shape[1])) / np.maximum(length, np.finfo(np.float32).tiny)

    # As augmentation, and not in `preprocess`, so that embedding drops nothing.
    def drop(key, batch):
        kept = jax.random.bernoulli(key, 1 - dropout, batch["feature"].shape)
        return {**batch, "feature": batch["feature"] * kept / (1 - dropout)}

    task = _on_rows(splits, x, hidden)
    return task._replace(augment=drop) if dropout else task


def on_pixels(splits: data.Splits, *, hidden: tuple[int, ...] = (512,)) -> Task:
    """Returns a task on rows of pixels from 0 to 1, without centring or scaling.

    Args:
      splits: Splits of the images.
      hidden: Widths of a perceptron's hidden layers.
    """
    image = splits.source[np.arange(len(splits.source))]["image"]
    return _on_rows(splits, image.reshape(len(image), -1) / np.float32(255), hidden)


def _on_rows(splits, x, hidden):
    """Returns a task on x [N, F] as the column "feature", without augmentation."""
    return Task(
        splits=splits._replace(source=features.with_features(splits.source, x)),
        network=lambda dim: models.mlp(x.shape[1:], hidden=hidden, dim=dim),
        inputs=methods.features,
        augment=lambda key, batch: batch,
        preprocess=lambda batch: batch,
    )
