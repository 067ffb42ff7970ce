"""Trains DQN on Fashion-MNIST, protocol i, a small residual network from scratch.

    python -m experiments.dqn_fashion_mnist

docs/results.md has its numbers. A network twice as wide, trained for longer, gave mAP .8427 in
204 s at commit 7484a33: --config.channels="(32,64,128)" --config.num_epochs=35.
"""

from ml_collections import ConfigDict, config_dict

from experiments import dqn, fashion_mnist
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = dqn.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return dqn.get_config(
        num_epochs=20,
        batch_size=128,
        learning_rate=0.4,
        weight_decay=5e-4,
        channels=(16, 32, 64),
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return dqn.build(config, "dqn_fashion_mnist", fashion_mnist.images(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn", variants=ABLATIONS)
