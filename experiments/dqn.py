"""DQN as an experiment: its numbers, its ablations, and its wiring on any task."""

from typing import Any

import optax
from ml_collections import ConfigDict, config_dict

from experiments.task import Task, configured, named, steps_per_epoch, wire
from quantjax import data, losses, methods, optimizers, train
from quantjax.errors import InputError
from quantjax.methods.dqn import PairLoss
from quantjax.quantizers import packing

ABLATIONS: dict[str, dict[str, Any]] = {
    "two_step": {"quantization_weight": 0.0},
    "inner_product": {"pair_loss": "inner_product"},
}
"""The paper's DQN2 and DQNip. Without quantization is the row "dqn float" of every run."""


def get_config(**numbers: Any) -> ConfigDict:
    """Returns the numbers of an experiment with DQN, lambda and the refits being the paper's.

    Args:
      **numbers: Others than these, and further ones.
    """
    config = config_dict.create(
        seed=0,
        final=False,
        precision="float32",
        microbatch=config_dict.placeholder(int),
        bits=32,
        num_codewords=256,
        num_codebooks=config_dict.placeholder(int),
        dim=48,
        metric="ip",
        pair_loss="cosine",
        quantization_weight=1e-4,
        refit_every=2,
    )
    with config.unlocked():
        config.update(numbers)
    return config.lock()


def build(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Wires DQN on a task.

    Args:
      config: From `get_config`, with num_epochs, batch_size, learning_rate and maybe weight_decay.
      name: The experiment's name.
      task: What it learns from.

    Raises:
      ValueError: see `num_codebooks`, `pair_loss` and `data.check_training_labels`.
    """
    data.check_training_labels(task.splits)
    optimizer_of = {"net": optimizer(config, len(task.splits.train))}
    return wire(config, name, task, method(config, task), optimizer_of)


def method(config: ConfigDict, task: Task) -> methods.Method:
    """Returns the paper's method.

    Args:
      config: From `get_config`.
      task: Its network and inputs.
    """
    return methods.dqn(
        configured(config, task.network(config.dim)),
        dim=config.dim,
        num_codebooks=num_codebooks(config),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        pair_loss=pair_loss(config),
        refit_every=config.refit_every,
        metric=config.metric,
        inputs=task.inputs,
    )


def num_codebooks(config: ConfigDict) -> int:
    """Returns M, which bits and K determine.

    Args:
      config: Its bits, num_codewords (K) and num_codebooks (M, or None to follow the two).

    Raises:
      ValueError: if log2 K does not divide bits, or M says otherwise than the two.
    """
    due = packing.num_codebooks(config.bits, config.num_codewords)
    if config.num_codebooks not in (None, due):
        raise InputError(
            f"{config.bits} bits are {due} codebooks of {config.num_codewords} codewords, got "
            f"num_codebooks = {config.num_codebooks}; change bits or num_codewords with it"
        )
    return due


def pair_loss(config: ConfigDict) -> PairLoss:
    """Returns the pairwise loss that the config names.

    Args:
      config: Its pair_loss.

    Raises:
      ValueError: if it is neither "cosine" nor "inner_product".
    """
    known = {
        "cosine": losses.pairwise_cosine,
        "inner_product": losses.pairwise_inner_product,
    }
    return named("pair_loss", config.pair_loss, known)


def optimizer(config: ConfigDict, num_train: int) -> optax.GradientTransformation:
    """Returns the paper's momentum SGD: the bottleneck at ten times the rate, biases at twice.

    The rate falls to a fifth after 70 % and again after 90 % of the run.

    Args:
      config: Its num_epochs, batch_size and learning_rate; maybe weight_decay, the factor of the L2
        penalty's gradient (the paper has none), and backbone_factor, of a pretrained part's rate.
      num_train: Number of training images.

    Raises:
      ValueError: if batch_size is below 1 or above num_train.
    """
    steps = config.num_epochs * steps_per_epoch(config, num_train)
    staircase = optax.piecewise_constant_schedule(
        config.learning_rate, {int(0.7 * steps): 0.2, int(0.9 * steps): 0.2}
    )
    factor = config.get("backbone_factor")
    backbone = () if factor is None else (("backbone/.*", factor),)
    return optimizers.momentum_sgd(
        staircase,
        weight_decay=config.get("weight_decay", 0.0),
        factors=((".*bottleneck/.*", 10.0), (".*bias", 2.0), *backbone),
    )
