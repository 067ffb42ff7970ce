"""Experiment with ADSQ (reconstructed): its config, ablations and method for any task."""

from typing import Any

import optax
from ml_collections import ConfigDict, config_dict

from experiments.task import Task, configured, named, steps_per_epoch, wire
from quantjax import data, methods, models, train
from quantjax.methods.adsq import both, first, second, with_semantic_layer

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_labelnet": {"label_epochs": 0, "label_code_weight": 0.0, "guide": "second"},
    "shared_weights": {"shared_weights": True},
    "no_balance": {"balance_weight": 0.0},
    "no_quantization": {"quantization_weight": 0.0},
    "likelihood_alone": {"difference_weight": 0.0},
    "difference_alone": {"likelihood_weight": 0.0},
    "semantic_layer": {"semantic_dim": 128},
}
"""What each leaves out, but for the semantic layer, which is inferred from DSEH and added. Shared
weights train their one network for twice the epochs."""


def get_config(**numbers: Any) -> ConfigDict:
    """Returns the config of an experiment with ADSQ.

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
        label_hidden=(256, 128),
        label_epochs=10,
        likelihood_weight=1.0,
        difference_weight=1.0,
        quantization_weight=0.05,
        balance_weight=0.05,
        label_code_weight=1.0,
        guide="labels",
        shared_weights=False,
        semantic_dim=0,
        semantic_weight=1.0,
        query="both",
        database="both",
    )
    with config.unlocked():
        config.update(numbers)
    return config.lock()


def build(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Builds the experiment that trains ADSQ on a task.

    Args:
      config: From `get_config`, with num_epochs, batch_size and learning_rate.
      name: The experiment's name.
      task: Images or features to learn from.

    Raises:
      ValueError: see `data.check_training_labels`; or if a word of the config is unknown.
    """
    data.check_training_labels(task.splits)
    built = method(config, task)
    entries = {each for phase in built.phases for each in phase.trains}
    num_train = len(task.splits.train)
    optimizer_of = {each: optimizer(config, built, each, num_train) for each in entries}
    return wire(config, name, task, built, optimizer_of)


def method(config: ConfigDict, task: Task) -> methods.Method:
    """Builds the ADSQ method with a config's settings.

    Args:
      config: From `get_config`. semantic_dim is the width of a semantic layer, 0 for none. `guide`
        is "labels" or "second", which the likelihood compares with; `query` and `database` are
        "first", "second" or "both", the networks that encode.
      task: Its network and inputs.

    Raises:
      ValueError: if a word of the config is unknown.
    """
    label = task.splits.source.labels[task.splits.train]
    sides = {"first": first, "second": second, "both": both}
    hidden = tuple(config.label_hidden)
    if config.semantic_dim:
        # It takes the place of the last hidden layer, so that LabelNet's layers stay as many.
        label_network = _with_semantic_layer(
            config, models.mlp(label.shape[1:], hidden=hidden[:-1], dim=config.semantic_dim)
        )
        image_network = _with_semantic_layer(config, task.network(config.semantic_dim))
    else:
        label_network = models.mlp(label.shape[1:], hidden=hidden, dim=config.bits)
        image_network = task.network(config.bits)
    return methods.adsq(
        configured(config, label_network),
        configured(config, image_network),
        bits=config.bits,
        label_epochs=config.label_epochs,
        likelihood_weight=config.likelihood_weight,
        difference_weight=config.difference_weight,
        quantization_weight=config.quantization_weight,
        balance_weight=config.balance_weight,
        label_code_weight=config.label_code_weight,
        streams=("first", "first") if config.shared_weights else ("first", "second"),
        guide=named("guide", config.guide, {"labels": first, "second": second}),
        query=named("query", config.query, sides),
        database=named("database", config.database, sides),
        semantic_dim=config.semantic_dim,
        semantic_weight=config.semantic_weight,
        inputs=task.inputs,
    )


def _with_semantic_layer(config, below):
    return with_semantic_layer(
        below, models.mlp((config.semantic_dim,), hidden=(), dim=config.bits)
    )


def optimizer(
    config: ConfigDict, method: methods.Method, name: str, num_train: int
) -> optax.GradientTransformation:
    """Returns Adam with a cosine schedule over the epochs that train an entry of params.

    Args:
      config: Its num_epochs, batch_size and learning_rate.
      method: Method whose phases define these epochs.
      name: The entry of params.
      num_train: Number of training images.

    Raises:
      ValueError: if batch_size is below 1 or above num_train.
    """
    phases = [method.phases[method.phase_at(epoch)] for epoch in range(config.num_epochs)]
    epochs = sum(name in phase.trains for phase in phases)
    steps = max(epochs * steps_per_epoch(config, num_train), 1)
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
