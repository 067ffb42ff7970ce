"""Trains DQN on 5,000 MNIST digits, which need no download: `python -m experiments.dqn mnist`.

    python -m experiments.dqn_mnist

It took 23 s on two cores from an empty compile cache and gave mAP .9742 (AQD, whole database) at
commit 86e2188; seeds 1 and 2 gave .9696 and .9644, k-means product quantization of pixels .4486.
`experiments/dqn.py` says how it trains, `experiments/tasks/digits.py` on what.
"""

from ml_collections import ConfigDict

from quantjax import launch, train

from . import dqn
from .baselines import baselines

ABLATIONS, sweep = dqn.ABLATIONS, dqn.sweep


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return dqn.get_config("mnist")


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return dqn.build(config, "mnist")


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn", sweep=sweep, variants=ABLATIONS)
