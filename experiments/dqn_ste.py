"""Trains DQN with codebooks that learn by the gradient of the loss, on the digits.

    python -m experiments.dqn_ste mnist --config.bits=32

It is `experiments/dqn.py` but for the codebooks: k-means fits them once, at epoch `start`, and from
then on they train with the network through straight-through assignment at `temperature`, by Adam
with the rate `codebook_learning_rate`. Loss, network, SGD and schedule are the same; no refits.
"""

import optax
from ml_collections import ConfigDict, config_dict

from quantjax import data, launch, methods, train

from . import configs, dqn
from .baselines import baselines
from .tasks import digits
from .tasks.task import OnData

DATA_SETS = {
    # 33 s on two cores, mAP .9737 (AQD, whole database) at commit 7484a33. Temperature and start
    # were chosen on the validation queries; with the start at epoch 2 those lost a point.
    "mnist": OnData(digits.images, {"num_epochs": 50, "batch_size": 64, "learning_rate": 0.03}),
}
"""Data sets by name, each with the settings that extend or replace those of `get_config`."""


def get_config(data_set: str) -> ConfigDict:
    """Returns the config of the method on a data set; --config.KEY=VALUE overrides a setting.

    Args:
      data_set: Key of `DATA_SETS`.
    """
    return configs.create(
        DATA_SETS[data_set].settings,
        seed=0,
        final=False,  # True: train on the validation set too, see `configs.splits`
        precision="float32",
        microbatch=config_dict.placeholder(int),  # rows at a time through the network
        bits=32,
        num_codewords=256,  # K
        num_codebooks=config_dict.placeholder(int),  # M, which follows from bits and K
        dim=48,  # R; None for the paper's 16 M
        metric="ip",
        pair_loss="cosine",
        quantization_weight=1e-4,  # lambda
        temperature=0.1,
        start=20,  # epoch
        codebook_learning_rate=1e-3,
        weight_decay=0.0,
    )


def build(config: ConfigDict, data_set: str) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config.

    Args:
      config: From `get_config`.
      data_set: Key of `DATA_SETS`.
    """
    task = DATA_SETS[data_set].task(config)
    data.check_training_labels(task.splits)
    dim = dqn.dim(config)
    method = methods.dqn_ste(
        configs.network(config, task.network(dim)),
        dim=dim,
        num_codebooks=configs.num_codebooks(config),
        num_codewords=config.num_codewords,
        quantization_weight=config.quantization_weight,
        temperature=config.temperature,
        pair_loss=dqn.pair_loss(config),
        start=config.start,
        metric=config.metric,
        inputs=task.inputs,
    )
    batches = data.shuffled(len(task.splits.train), config.batch_size)
    optimizer_of = {
        "net": dqn.optimizer(config, config.num_epochs * len(batches(0, 0))),
        "codebooks": optax.adam(config.codebook_learning_rate),
    }
    return configs.experiment(config, f"dqn_ste_{data_set}", task, method, optimizer_of, batches)


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="dqn_ste", data_sets=DATA_SETS)
