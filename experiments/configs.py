"""Makes configs, and builds from them the parts that all experiments share."""

import copy
import json
from typing import Any

import optax
from ml_collections import ConfigDict, config_dict

from quantjax import data, methods, models, train
from quantjax.data import protocols
from quantjax.errors import InputError
from quantjax.quantizers import packing

from .tasks.task import Task


def create(settings: dict[str, Any], **defaults: Any) -> ConfigDict:
    """Returns a config; setting a key that it does not have raises an error.

    Args:
      settings: Keys and values that extend or replace the defaults.
      **defaults: Keys and values of the config.
    """
    # Copied, because configs that share a placeholder would share the value that is put in it.
    return config_dict.create(**{**defaults, **copy.deepcopy(settings)}).lock()


def choice(config: ConfigDict, key: str, known: dict[str, Any]) -> Any:
    """Returns the object that a word in the config names.

    Args:
      config: Has the word.
      key: Key of the word.
      known: Objects by word.

    Raises:
      ValueError: if the word is unknown.
    """
    if config[key] not in known:
        raise InputError(f"{key} must be one of {', '.join(known)}, got {config[key]!r}")
    return known[config[key]]


def num_codebooks(config: ConfigDict) -> int:
    """Returns M, the number of codebooks, from bits and K.

    Args:
      config: Its bits, num_codewords (K) and num_codebooks (M, or None to compute M from them).

    Raises:
      ValueError: if log2 K does not divide bits, or the config's M contradicts bits and K.
    """
    due = packing.num_codebooks(config.bits, config.num_codewords)
    if config.num_codebooks not in (None, due):
        raise InputError(
            f"{config.bits} bits are {due} codebooks of {config.num_codewords} codewords, got "
            f"num_codebooks = {config.num_codebooks}; change bits or num_codewords with it"
        )
    return due


def network(config: ConfigDict, network: models.Network) -> models.Network:
    """Returns a network with the config's precision and microbatches.

    Args:
      config: Its precision, "float32" or "bfloat16", and microbatch, rows at a time or None.
      network: Any network.

    Raises:
      ValueError: if precision is unknown, or microbatch below 1.
    """
    # Parameters stay float32 in both; only the computation changes.
    network = models.in_precision(network, config.precision)
    return network if config.microbatch is None else models.microbatched(network, config.microbatch)


def splits(config: ConfigDict, splits: data.Splits) -> data.Splits:
    """Returns the splits to train on: the protocol's, or its final form without validation set.

    Args:
      config: Its final: False to choose settings on the validation set, True to train on it as well
        after all settings are chosen.
      splits: The protocol, with its validation part.
    """
    return protocols.final(splits) if config.final else splits


def experiment(
    config: ConfigDict,
    name: str,
    task: Task,
    method: methods.Method,
    optimizers: dict[str, optax.GradientTransformation],
    sampler: data.Sampler | None = None,
) -> train.Experiment:
    """Returns the experiment that trains a method on a task.

    Args:
      config: Its seed, num_epochs and batch_size.
      name: The experiment's name.
      task: Images or features to learn from.
      method: The method to train.
      optimizers: Optimizer of each entry of the method's params.
      sampler: Sampler of batches; shuffled batches when None.

    Raises:
      ValueError: if batch_size is below 1 or above the number of training images.
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
        # Kept with the run, so that a workdir refuses another config and can be opened again.
        config=json.loads(config.to_json()),
        licence=task.licence,
    )
