"""Trains by the triplet quantization loss (reconstructed), on one of the data sets in `DATA_SETS`.

    python -m experiments.triplet_quantization mnist --config.bits=32

`quantjax/methods/triplet_quantization.py` has the equations and says which are attested; the
paper's settings could not be found, so all values are our choice.

- Loss: the hinge with `margin` of semi-hard triplets on embeddings of length 1, plus
  `quantization_weight` times a loss of quantization, one of four by `quantization`.
- Network: the data set's (`experiments/tasks/`); its last layer has `bits` outputs.
- Batches: batch_size / images_per_class classes, with images_per_class images of each.
- Optimizer: SGD with momentum; the bottleneck has ten times the rate, biases have twice.
- Schedule: the rate falls to a fifth after 70 % of the run, and again after 90 %. No refits.
- Codes: the signs of the embedding, ranked by Hamming distance.
- Baselines: `experiments/baselines.py`. Ablations: `ABLATIONS`, by --variant=NAME.

The paper claims that a quantization loss on triplets keeps the quality of the real embedding and
loses little by taking signs, but that ||f - sgn f||^2 spoils the embedding. Every run prints both:
the method's row is the signs', the row "float" the real embedding's. On the digits at commit
0b3c152, as means over seeds 0 to 9, `--config.seed=0` and so on with the options of each row:

    --config.                                         real    binary  drop
    quantization_weight=0                             .9631   .9429   .0202
    quantization=sign_error quantization_weight=.001  .9645   .9504   .0140
    quantization=sign_error quantization_weight=.003  .9631   .9564   .0067
    quantization=sign_error quantization_weight=.005  .9662   .9593   .0069
    quantization=straight_through (the default)       .9638   .9601   .0037
    quantization=asymmetric                           .9667   .9598   .0070
    quantization=order_drop                           .9636   .9570   .0066

The drop has a standard deviation of .003 to .006 over seeds, so .001 to .002 in a mean. The loss on
triplets does keep the order, and its first reading keeps it best. But with its weight well chosen
the error of signs gives codes as good within that noise, and does not spoil the embedding. It is
harder to choose: at .01 the codes of two of seeds 0 to 2 fell to chance. Of the readings only the
first was tried at other weights, .3 and 3, with seed 0. All choices are by validation queries.

With --config.activation=tanh there is little left to lose: over seeds 0 to 2 the drop is .0033 at
no weight and .0055 at the default.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict, config_dict

from quantjax import data, launch, losses, methods, optimizers, train
from quantjax.errors import InputError
from quantjax.methods.triplet_quantization import Quantization, on_rows, on_triplets

from . import configs
from .baselines import baselines
from .tasks import cifar10, clothing, digits, fashion_mnist
from .tasks.task import OnData, Task

_BATCHES = {"num_epochs": 20, "batch_size": 128, "images_per_class": 16, "weight_decay": 5e-4}
_FEATURES = {**_BATCHES, "num_epochs": 40, "learning_rate": 0.003, "dropout": 0.3}

DATA_SETS = {
    # 26 s of processor time, mAP .9583 (Hamming, whole database) at commit 0b3c152, where the real
    # embedding has .9637 and k-means product quantization of pixels .4486.
    "mnist": OnData(
        digits.images,
        {"num_epochs": 20, "batch_size": 64, "images_per_class": 8, "learning_rate": 0.003},
    ),
    # docs/results.md has the numbers on the others.
    "fashion_mnist": OnData(
        fashion_mnist.images, {**fashion_mnist.IMAGES, **_BATCHES, "learning_rate": 0.02}
    ),
    "cifar10_features": OnData(cifar10.features, {**cifar10.FEATURES, **_FEATURES}),
    "clothing_features": OnData(clothing.features, {**clothing.FEATURES, **_FEATURES}),
}
"""Data sets by name, each with the settings that extend or replace those of `get_config`."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_quantization": {"quantization_weight": 0.0},
    "sign_error": {"quantization": "sign_error", "quantization_weight": 0.003},
    "asymmetric": {"quantization": "asymmetric"},
    "order_drop": {"quantization": "order_drop"},
}
"""Settings of each variant: no quantization loss, the usual `sign_error`, and our other two
readings of the paper's loss (`quantjax/losses/triplet.py`)."""


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
        margin=0.5,
        quantization="straight_through",  # name of the quantization loss, see `quantization`
        quantization_weight=1.0,
        activation="linear",  # or "tanh"
    )


def build(config: ConfigDict, data_set: str) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config.

    Args:
      config: From `get_config`.
      data_set: Key of `DATA_SETS`.
    """
    name = f"triplet_quantization_{data_set}"
    return on_task(config, name, DATA_SETS[data_set].task(config))


def on_task(config: ConfigDict, name: str, task: Task) -> train.Experiment:
    """Builds the experiment that trains the method on a task.

    Args:
      config: From `get_config`.
      name: The experiment's name.
      task: Images or features to learn from.

    Raises:
      ValueError: see `quantization`, `activation` and `sampler`.
    """
    method = methods.triplet_quantization(
        configs.network(config, task.network(config.bits)),
        bits=config.bits,
        margin=config.margin,
        quantization=quantization(config),
        activation=activation(config),
        quantization_weight=config.quantization_weight,
        inputs=task.inputs,
    )
    batches = sampler(config, task.splits)
    # Of shuffled batches: these may be fewer, if classes differ in size.
    steps_per_epoch = len(task.splits.train) // config.batch_size
    optimizer_of = {"net": optimizer(config, config.num_epochs * steps_per_epoch)}
    return configs.experiment(config, name, task, method, optimizer_of, batches)


def quantization(config: ConfigDict) -> Quantization:
    """Returns the quantization loss by its name in the config.

    Args:
      config: Its quantization and margin; codes get the same share of the largest distance.

    Raises:
      ValueError: if it is not "straight_through", "asymmetric", "order_drop" or "sign_error".
    """
    # Embeddings have length 1, so squared distances reach 4; Hamming distances are shares, up to 1.
    margin = config.margin / 4
    known = {
        "straight_through": on_triplets(
            functools.partial(losses.triplet_quantization, margin=margin)
        ),
        "asymmetric": on_triplets(
            functools.partial(losses.asymmetric_triplet_quantization, margin=margin)
        ),
        "order_drop": on_triplets(losses.order_drop),
        "sign_error": on_rows(losses.sign_error),
    }
    return configs.choice(config, "quantization", known)


def activation(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation, from network output to embedding, by its name in the config.

    Args:
      config: Its activation.

    Raises:
      ValueError: if it is neither "linear" nor "tanh".
    """
    known = {"linear": lambda x: x, "tanh": jnp.tanh}
    return configs.choice(config, "activation", known)


def sampler(config: ConfigDict, splits: data.Splits) -> data.Sampler:
    """Returns a sampler of batches with batch_size / images_per_class classes.

    Args:
      config: Its batch_size and images_per_class.
      splits: Whose training images are drawn.

    Raises:
      ValueError: if the one does not divide the other, or classes are too few or too small, and see
        `data.check_training_labels`.
    """
    num_classes, rest = divmod(config.batch_size, max(config.images_per_class, 1))
    if rest or config.images_per_class < 1:
        raise InputError(
            f"batch_size must be a multiple of images_per_class, got {config.batch_size} and "
            f"{config.images_per_class}"
        )
    data.check_training_labels(splits)  # names photos, which the labels alone cannot
    return data.class_balanced(
        splits.source.labels[splits.train],
        classes_per_batch=num_classes,
        images_per_class=config.images_per_class,
    )


def optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns SGD with momentum, with ten times the rate for the bottleneck and twice for biases.

    Args:
      config: Its learning_rate, and maybe weight_decay, the factor of the L2 penalty's gradient.
      num_steps: Steps of the whole run.
    """
    staircase = optax.piecewise_constant_schedule(
        config.learning_rate, {int(0.7 * num_steps): 0.2, int(0.9 * num_steps): 0.2}
    )
    return optimizers.momentum_sgd(
        staircase,
        weight_decay=config.get("weight_decay", 0.0),
        factors=((".*bottleneck/.*", 10.0), (".*bias", 2.0)),
    )


if __name__ == "__main__":
    launch.main(
        get_config,
        build,
        baselines,
        title="triplet quantization",
        data_sets=DATA_SETS,
        variants=ABLATIONS,
    )
