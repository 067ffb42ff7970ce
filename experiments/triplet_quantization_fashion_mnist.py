"""Trains by triplet quantization on Fashion-MNIST, protocol i, a small network from scratch.

    python -m experiments.triplet_quantization_fashion_mnist

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict, config_dict

from experiments import fashion_mnist, triplet_quantization
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = triplet_quantization.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return triplet_quantization.get_config(
        num_epochs=20,
        batch_size=128,
        images_per_class=16,
        learning_rate=0.02,
        weight_decay=5e-4,
        channels=(16, 32, 64),
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return triplet_quantization.build(
        config, "triplet_quantization_fashion_mnist", fashion_mnist.images(config)
    )


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="triplet quantization", variants=ABLATIONS)
