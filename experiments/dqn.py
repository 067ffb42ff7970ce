"""What the experiments with DQN share: optimizer, method and wiring from a config."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from quantjax import data, methods, models, optimizers, train
from quantjax.data import augment, protocols
from quantjax.quantizers import packing


def num_codebooks(config: ConfigDict) -> int:
    """Returns M, which bits and K determine.

    Args:
      config: Its bits, num_codewords (K) and num_codebooks (M, or None to follow the two).

    Raises:
      ValueError: if log2 K does not divide bits, or M says otherwise than the two.
    """
    due = packing.num_codebooks(config.bits, config.num_codewords)
    if config.num_codebooks not in (None, due):
        raise ValueError(
            f"{config.bits} bits are {due} codebooks of {config.num_codewords} codewords, got "
            f"num_codebooks = {config.num_codebooks}; change bits or num_codewords with it"
        )
    return due


def method(config: ConfigDict, network: models.Network) -> methods.Method:
    """Returns the paper's method.

    Args:
      config: Its bits, num_codewords, num_codebooks, dim, quantization_weight, refit_every and
        metric.
      network: Images -> [B, dim].
    """
    return methods.dqn(
        network,
        dim=config.dim,
        num_codebooks=num_codebooks(config),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        refit_every=config.refit_every,
        metric=config.metric,
    )


def optimizer(
    config: ConfigDict, num_train: int, *, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Returns the paper's momentum SGD: the bottleneck at ten times the rate, biases at twice.

    The rate falls to a fifth after 70 % and again after 90 % of the run.

    Args:
      config: Its num_epochs, batch_size and learning_rate.
      num_train: Number of training images.
      weight_decay: Factor of the L2 penalty's gradient; the paper has none.
    """
    steps = config.num_epochs * (num_train // config.batch_size)
    staircase = optax.piecewise_constant_schedule(
        config.learning_rate, {int(0.7 * steps): 0.2, int(0.9 * steps): 0.2}
    )
    return optimizers.momentum_sgd(
        staircase,
        weight_decay=weight_decay,
        factors=(("bottleneck/.*", 10.0), (".*bias", 2.0)),
    )


def splits(config: ConfigDict, carved: protocols.Splits) -> protocols.Splits:
    """Returns the split to train on.

    Args:
      config: Its final: False to choose on validation rows, True to train on them as well once all
        is chosen.
      carved: The protocol, with its validation part.
    """
    return protocols.final(carved) if config.final else carved


def wire(
    config: ConfigDict,
    name: str,
    method: methods.Method,
    optimizer_of: dict[str, optax.GradientTransformation],
    splits: protocols.Splits,
    *,
    distort: augment.Transform,
    prepare: Callable[[augment.Batch], augment.Batch],
) -> train.Experiment:
    """Puts a method on images.

    Args:
      config: Its seed, num_epochs and batch_size.
      name: The experiment's name.
      method: What is trained.
      optimizer_of: Optimizer of each entry of the method's params.
      splits: The images.
      distort: What happens to images in training, ahead of `prepare`.
      prepare: What happens to all batches.

    Returns:
      What `train.fit` runs.
    """
    change = augment.on_images(distort)
    return train.Experiment(
        name=name,
        method=method,
        splits=splits,
        sampler=data.shuffled(len(splits.train), config.batch_size),
        augment=lambda key, batch: prepare(change(key, batch)),
        preprocess=prepare,
        optimizers=optimizer_of,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
