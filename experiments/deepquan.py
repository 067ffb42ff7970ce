"""Experiment with DeepQuan (reconstructed): its config, ablations and method on features."""

import functools
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict, config_dict

from experiments import dqn
from experiments.task import Task, configured, named, wire
from quantjax import data, methods, models, train
from quantjax.methods.deepquan import Weigh, by_rank, equal, heat_kernel

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_triplets": {"triplet_weight": 0.0},
    "unweighted": {"weigh": "equal"},
    "by_rank": {"weigh": "by_rank"},
    "no_reconstruction": {"reconstruction_weight": 0.0, "pretrain_epochs": 0},
    "two_step": {"quantization_weight": 0.0},
}
"""What each leaves out, or weighs otherwise."""


def get_config(**numbers: Any) -> ConfigDict:
    """Returns the config of an experiment with DeepQuan.

    The paper's settings could not be found: all values are our choice.

    Args:
      **numbers: Settings that replace or extend the defaults.
    """
    config = config_dict.create(
        seed=0,
        final=False,
        precision="float32",
        microbatch=config_dict.placeholder(int),
        bits=32,
        num_codewords=256,
        num_codebooks=config_dict.placeholder(int),
        hidden=(512, 256),
        num_neighbours=100,
        pretrain_epochs=2,
        reconstruction_weight=0.02,
        triplet_weight=1.0,
        weigh="heat_kernel",
        quantization_weight=0.01,
        batch_size=250,
        learning_rate=1e-3,
    )
    with config.unlocked():
        config.update(numbers)
    return config.lock()


def build(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Builds the experiment that trains DeepQuan on a task's column "feature", without labels.

    Args:
      config: From `get_config`, with dim, rounded up to a multiple of the codebooks, margin and
        num_epochs. `weigh` is "heat_kernel", as wide as a neighbour is far, "by_rank" or "equal".
      name: The experiment's name.
      task: Features to learn from.

    Raises:
      ValueError: if `weigh` is unknown, or sizes do not fit.
    """
    splits, distance = with_neighbours(task.splits, config.num_neighbours)
    num_features = splits.source[splits.train[:1]]["feature"].shape[1]
    num_codebooks = dqn.num_codebooks(config)
    dim = -(-config.dim // num_codebooks) * num_codebooks
    hidden = tuple(config.hidden)
    method = methods.deepquan(
        configured(config, models.mlp((num_features,), hidden=hidden, dim=dim)),
        configured(config, models.mlp((dim,), hidden=hidden[::-1], dim=num_features)),
        dim=dim,
        num_codebooks=num_codebooks,
        num_codewords=config.num_codewords,
        pretrain_epochs=config.pretrain_epochs,
        reconstruction_weight=config.reconstruction_weight,
        triplet_weight=config.triplet_weight,
        quantization_weight=config.quantization_weight,
        margin=config.margin,
        weigh=weigh(config, distance),
        inputs=methods.features,
    )
    optimizer_of: dict[str, optax.GradientTransformation] = {
        each: optax.adam(config.learning_rate) for each in ("encoder", "decoder")
    }
    return wire(config, name, task._replace(splits=splits), method, optimizer_of)


def weigh(config: ConfigDict, distance: float) -> Weigh:
    """Returns the function that weights triplets, by the config's name for it.

    Args:
      config: Its weigh.
      distance: The mean distance to a neighbour, the heat kernel's width.

    Raises:
      ValueError: if it is not "heat_kernel", "by_rank" or "equal".
    """
    known = {
        "heat_kernel": functools.partial(heat_kernel, width=distance),
        "by_rank": by_rank,
        "equal": equal,
    }
    return named("weigh", config.weigh, known)


def with_neighbours(splits: data.Splits, num_neighbours: int) -> tuple[data.Splits, float]:
    """Adds a column with the nearest neighbours, by features, of every training image.

    Args:
      splits: Splits whose source has a column "feature"; labels are not used.
      num_neighbours: k.

    Returns:
      The splits, "neighbours" [N, k] in their source, -1 outside the training images; and the mean
      distance to a neighbour.
    """
    x = splits.source[splits.train]["feature"]
    found = data.nearest_neighbours(x, num_neighbours=num_neighbours)
    neighbours = np.full((len(splits.source), num_neighbours), -1, np.int32)
    neighbours[splits.train] = found.rows
    source = data.with_columns(splits.source, neighbours=neighbours)
    return splits._replace(source=source), float(found.distances.mean())
