"""Experiment with the triplet quantization loss: its config, rival losses and method.

The paper claims that a quantization loss on triplets keeps the quality of the real embedding and
loses little by taking signs, but that ||f - sgn f||^2 spoils the embedding. Every run prints both:
the method's row is the signs', the row "float" the real embedding's.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from experiments import dqn
from experiments.task import Task, configured, named, wire
from quantjax import data, losses, methods, train
from quantjax.errors import InputError
from quantjax.methods.triplet_quantization import Quantization, on_rows, on_triplets

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_quantization": {"quantization_weight": 0.0},
    "sign_error": {"quantization": "sign_error", "quantization_weight": 0.003},
    "asymmetric": {"quantization": "asymmetric"},
    "order_drop": {"quantization": "order_drop"},
}
"""No loss of quantization, the usual one, and the other two of our readings of the paper's."""


def get_config(**numbers: Any) -> ConfigDict:
    """Returns the config of an experiment with the triplet quantization loss.

    The paper's settings could not be found: all values are our choice.

    Args:
      **numbers: Settings that replace or extend the defaults.
    """
    config = config_dict.create(
        seed=0,
        final=False,
        precision="float32",
        microbatch=config_dict.placeholder(int),
        bits=32,
        margin=0.5,
        quantization="straight_through",
        quantization_weight=1.0,
        activation="linear",
    )
    with config.unlocked():
        config.update(numbers)
    return config.lock()


def build(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Builds the experiment that trains the method on a task.

    Args:
      config: From `get_config`, with num_epochs, batch_size, images_per_class, learning_rate and
        maybe weight_decay.
      name: The experiment's name.
      task: Images or features to learn from.

    Raises:
      ValueError: see `quantization`, `activation` and `sampler`.
    """
    method = methods.triplet_quantization(
        configured(config, task.network(config.bits)),
        bits=config.bits,
        margin=config.margin,
        quantization=quantization(config),
        activation=activation(config),
        quantization_weight=config.quantization_weight,
        inputs=task.inputs,
    )
    optimizer_of = {"net": dqn.optimizer(config, len(task.splits.train))}
    return wire(config, name, task, method, optimizer_of, sampler(config, task.splits))


def quantization(config: ConfigDict) -> Quantization:
    """Returns the quantization loss by its name in the config.

    Args:
      config: Its quantization and margin; codes get the same share of the largest distance.

    Raises:
      ValueError: if it is not "straight_through", "asymmetric", "order_drop" or "sign_error".
    """
    margin = config.margin / 4
    known = {
        "straight_through": on_triplets(
            functools.partial(losses.triplet_quantization, margin=margin)
        ),
        "asymmetric": on_triplets(
            functools.partial(losses.asymmetric_triplet_quantization, margin=margin)
        ),
        "order_drop": on_triplets(losses.order_drop),
        "sign_error": on_rows(losses.sign_error),
    }
    return named("quantization", config.quantization, known)


def activation(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation, from network output to embedding, by its name in the config.

    Args:
      config: Its activation.

    Raises:
      ValueError: if it is neither "linear" nor "tanh".
    """
    known = {"linear": lambda x: x, "tanh": jnp.tanh}
    return named("activation", config.activation, known)


def sampler(config: ConfigDict, splits: data.Splits) -> data.Sampler:
    """Returns a sampler of batches with batch_size / images_per_class classes.

    Args:
      config: Its batch_size and images_per_class.
      splits: Whose training images are drawn.

    Raises:
      ValueError: if the one does not divide the other, or classes are too few or too small, and see
        `data.check_training_labels`.
    """
    num_classes, rest = divmod(config.batch_size, max(config.images_per_class, 1))
    if rest or config.images_per_class < 1:
        raise InputError(
            f"batch_size must be a multiple of images_per_class, got {config.batch_size} and "
            f"{config.images_per_class}"
        )
    data.check_training_labels(splits)  # names photos, which the labels alone cannot
    return data.class_balanced(
        splits.source.labels[splits.train],
        classes_per_batch=num_classes,
        images_per_class=config.images_per_class,
    )
