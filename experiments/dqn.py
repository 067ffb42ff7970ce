"""Experiment with DQN: its config, ablations and method for any task."""

import functools
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
    "paper": {
        "dim": None,
        "metric": "l2",
        "refit_every": 1,
        "reassign": "refit",
        "weight_decay": 5e-4,
    },
}
"""The paper's DQN2 and DQNip, and what its text says where the rest follows the authors' code:
R = 16 M, Euclidean distance, a refit every epoch, codes held between refits, weight decay 0.0005;
lambda is to be chosen by validation queries. Without quantization is the row "dqn float" of every
run."""


def get_config(**numbers: Any) -> ConfigDict:
    """Returns the config of an experiment with DQN.

    K = 256 is the paper's. Lambda, a refit every two epochs and ranking by inner product are the
    authors' code's. All other settings are ours.

    Args:
      **numbers: Settings that replace or extend the defaults.
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
        reassign="step",
        weight_decay=0.0,
    )
    with config.unlocked():
        config.update(numbers)
    return config.lock()


def build(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Builds the experiment that trains DQN on a task.

    Args:
      config: From `get_config`, with num_epochs, batch_size and learning_rate.
      name: The experiment's name.
      task: Images or features to learn from.

    Raises:
      ValueError: see `num_codebooks`, `pair_loss` and `data.check_training_labels`.
    """
    data.check_training_labels(task.splits)
    optimizer_of = {"net": optimizer(config, len(task.splits.train))}
    return wire(config, name, task, method(config, task), optimizer_of)


def method(config: ConfigDict, task: Task) -> methods.Method:
    """Builds the DQN method with a config's settings.

    Args:
      config: From `get_config`.
      task: Its network and inputs.
    """
    width = dim(config)
    return methods.dqn(
        configured(config, task.network(width)),
        dim=width,
        num_codebooks=num_codebooks(config),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        pair_loss=pair_loss(config),
        refit_every=config.refit_every,
        reassign=config.reassign,
        metric=config.metric,
        inputs=task.inputs,
    )


def num_codebooks(config: ConfigDict) -> int:
    """Returns M, the number of codebooks, from bits and K.

    Args:
      config: Its bits, num_codewords (K) and num_codebooks (M, or None to follow the two).

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


def dim(config: ConfigDict) -> int:
    """Returns R, the width of the embedding.

    Args:
      config: Its dim, or None for the paper's 16 for each codebook; bits and num_codewords then
        say how many these are.

    Raises:
      ValueError: see `num_codebooks`.
    """
    return 16 * num_codebooks(config) if config.dim is None else config.dim


def pair_loss(config: ConfigDict) -> PairLoss:
    """Returns the pairwise loss by its name in the config.

    Args:
      config: Its pair_loss, and bits, by which the paper's variant divides inner products.

    Raises:
      ValueError: if it is neither "cosine" nor "inner_product".
    """
    known = {
        "cosine": losses.pairwise_cosine,
        "inner_product": functools.partial(losses.pairwise_inner_product, scale=1 / config.bits),
    }
    return named("pair_loss", config.pair_loss, known)


def optimizer(config: ConfigDict, num_train: int) -> optax.GradientTransformation:
    """Returns SGD with momentum, with ten times the rate for the bottleneck and twice for biases.

    Momentum and the bottleneck's rate are the paper's; the rate of biases is the authors' code's.
    The schedule is ours: the rate falls to a fifth after 70 % and again after 90 % of the run.

    Args:
      config: Its num_epochs, batch_size and learning_rate; maybe weight_decay, the factor of the L2
        penalty's gradient (0.0005 in the paper, none in the authors' code), and backbone_factor, of
        a pretrained part's rate.
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
