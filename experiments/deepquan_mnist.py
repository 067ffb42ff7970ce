"""DeepQuan, reconstructed, on the digits of `dqn_mnist`, whose labels it does not see.

    python -m experiments.deepquan_mnist

It took 32 s on two cores and gave mAP .4583 (AQD, whole database) at commit e46801e; k-means
product quantization of pixels gave .4486, which is inside the interval of .4418 to .4770. With
--config.triplet_weight=0.0 it gave .4029, with --config.reconstruction_weight=0.0 .4528. One seed.
"""

import functools

import numpy as np
import optax
from ml_collections import ConfigDict, config_dict

from experiments import dqn, dqn_mnist
from experiments.baselines import baselines
from quantjax import data, launch, methods, models, train
from quantjax.data import augment
from quantjax.methods.deepquan import Weigh, heat_kernel


def get_config() -> ConfigDict:
    """Returns the numbers of the experiment; override one by --config.KEY=VALUE.

    The paper's were not to be found: all are our choice.
    """
    return config_dict.create(
        seed=0,
        final=False,
        bits=32,
        num_codewords=256,
        num_codebooks=config_dict.placeholder(int),
        dim=32,
        hidden=(512, 256),
        num_neighbours=100,
        pretrain_epochs=2,
        reconstruction_weight=0.02,
        triplet_weight=1.0,
        quantization_weight=0.01,
        margin=100.0,
        num_epochs=40,
        batch_size=250,
        learning_rate=1e-3,
    )


def build(config: ConfigDict, weigh: Weigh | None = None) -> train.Experiment:
    """Wires the experiment.

    Args:
      config: From `get_config`.
      weigh: How triplets are weighed; the heat kernel as wide as a neighbour is far when None.

    Returns:
      What `train.fit` runs.
    """
    digits, distance = with_neighbours(dqn_mnist.splits(config), config.num_neighbours)
    hidden = tuple(config.hidden)
    method = methods.deepquan(
        models.mlp((784,), hidden=hidden, dim=config.dim),
        models.mlp((config.dim,), hidden=hidden[::-1], dim=784),
        dim=config.dim,
        num_codebooks=dqn.num_codebooks(config),
        num_codewords=config.num_codewords,
        pretrain_epochs=config.pretrain_epochs,
        reconstruction_weight=config.reconstruction_weight,
        triplet_weight=config.triplet_weight,
        quantization_weight=config.quantization_weight,
        margin=config.margin,
        weigh=functools.partial(heat_kernel, width=distance) if weigh is None else weigh,
    )
    return dqn.wire(
        config,
        "deepquan_mnist",
        method,
        {name: optax.adam(config.learning_rate) for name in ("encoder", "decoder")},
        digits,
        distort=lambda key, image: image,
        prepare=augment.normalize(mean=(0.0,), std=(1.0,)),
    )


def with_neighbours(splits: data.Splits, num_neighbours: int) -> tuple[data.Splits, float]:
    """Gives every training image a column of its neighbours by pixels.

    Args:
      splits: Images; their labels are not looked at.
      num_neighbours: k.

    Returns:
      The splits, "neighbours" [N, k] in their source, -1 outside the training images; and the mean
      distance to a neighbour, of pixels between 0 and 1.
    """
    columns = splits.source[np.arange(len(splits.source))]
    pixels = columns["image"][splits.train].reshape(len(splits.train), -1) / 255
    found = data.nearest_neighbours(pixels, num_neighbours=num_neighbours)
    neighbours = np.full((len(splits.source), num_neighbours), -1, np.int32)
    neighbours[splits.train] = found.rows
    source = data.from_arrays(
        columns["image"], columns["label"], classes=splits.source.classes, neighbours=neighbours
    )
    return splits._replace(source=source), float(found.distances.mean())


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="deepquan")
