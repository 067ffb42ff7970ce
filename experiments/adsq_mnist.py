"""Trains ADSQ (reconstructed) on the digits of `dqn_mnist`.

    python -m experiments.adsq_mnist

It took 61 s of processor time and gave mAP .9742 (Hamming, whole database; .9617 were all ties in
the worst order) at commit 976a27b; k-means product quantization of pixels gave .4486.

What each part is worth, seed 0, same commit: without LabelNet .9629, shared weights .9742, without
balance .9676, without quantization .9578, likelihood alone .9710, difference alone .9586. Of the
whole, the first network alone gave .9694, asking the second .9728, asking both .9727. 95 %
intervals over queries are .01 to either side. `ABLATIONS` has the overrides.
"""

from ml_collections import ConfigDict

from experiments import adsq, digits
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = adsq.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return adsq.get_config(
        num_epochs=70,
        batch_size=64,
        learning_rate=1e-3,
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return adsq.build(config, "adsq_mnist", digits.images(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="adsq", variants=ABLATIONS)
