"""Trains ADSQ (reconstructed) on Fashion-MNIST, protocol i, two small networks from scratch.

    python -m experiments.adsq_fashion_mnist

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict, config_dict

from experiments import adsq, fashion_mnist
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = adsq.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return adsq.get_config(
        num_epochs=50,
        batch_size=128,
        learning_rate=2e-3,
        channels=(16, 32, 64),
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return adsq.build(config, "adsq_fashion_mnist", fashion_mnist.images(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="adsq", variants=ABLATIONS)
