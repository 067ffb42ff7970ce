"""Trains DeepQuan (reconstructed) on the digits of `dqn_mnist`, without labels.

    python -m experiments.deepquan_mnist

It took 32 s on two cores and gave mAP .4583 (AQD, whole database) at commit e46801e; k-means
product quantization of pixels gave .4486, which is inside the interval of .4418 to .4770. With
--config.triplet_weight=0.0 it gave .4029, with --config.reconstruction_weight=0.0 .4528. One seed.
"""

from ml_collections import ConfigDict

from experiments import deepquan, digits
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = deepquan.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return deepquan.get_config(
        dim=32,
        margin=100.0,
        num_epochs=40,
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return deepquan.build(config, "deepquan_mnist", digits.pixels(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="deepquan", variants=ABLATIONS)
