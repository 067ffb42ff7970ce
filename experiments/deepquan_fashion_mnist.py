"""Trains DeepQuan (reconstructed) on the pixels of Fashion-MNIST, protocol i; without labels.

    python -m experiments.deepquan_fashion_mnist

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict, config_dict

from experiments import deepquan, fashion_mnist
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = deepquan.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return deepquan.get_config(
        dim=32,
        margin=100.0,
        num_epochs=40,
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return deepquan.build(config, "deepquan_fashion_mnist", fashion_mnist.pixels(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="deepquan", variants=ABLATIONS)
