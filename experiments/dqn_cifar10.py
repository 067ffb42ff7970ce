"""Trains DQN on CIFAR-10 (JPEG), protocol i, a small residual network from scratch.

    python -m experiments.dqn_cifar10

It took 549 s on two cores and gave mAP .6114 (AQD, whole database) at commit 6c039eb; k-means
product quantization of pixels .1376, of the untrained network .1098.
"""

from ml_collections import ConfigDict, config_dict

from experiments import dqn
from experiments.baselines import baselines
from experiments.task import carved, of_images
from quantjax import data, launch, models, train
from quantjax.data import augment

ABLATIONS = dqn.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return dqn.get_config(
        num_epochs=100,
        batch_size=128,
        learning_rate=0.4,
        weight_decay=5e-4,
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    task = of_images(
        carved(config, data.cifar10_i(data.cifar10(config.data_dir))),
        lambda dim: models.patch_resnet(
            (32, 32, 3), patch=2, channels=(32, 64, 128), num_blocks=(1, 1, 1), dim=dim
        ),
        distort=augment.compose(
            augment.random_crop(padding=4),
            augment.random_flip(),
            augment.random_erase(size=8, fill=120),
        ),
        prepare=augment.normalize(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
    )
    return dqn.build(config, "dqn_cifar10", task)


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn", variants=ABLATIONS)
