"""Triplet quantization loss on 5,000 MNIST digits that need no download.

    python -m experiments.triplet_quantization_mnist

It took 26 s of processor time and gave mAP .9583 (Hamming, whole database) at commit 0b3c152, where
the real embedding has .9637 and k-means product quantization of pixels .4486.

The paper's claim is that a loss on triplets keeps the real embedding as good as it is and loses
little by taking signs, where ||f - sgn f||^2 spoils the embedding. Here, at the same commit, as
means over seeds 0 to 9, `--config.seed=0` and so on with the options of each row:

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

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from experiments import dqn, dqn_mnist
from experiments.baselines import baselines
from quantjax import data, launch, losses, methods, models, train
from quantjax.methods.triplet_quantization import Quantization, on_rows, on_triplets


def get_config() -> ConfigDict:
    """Returns the numbers of the experiment; override one by --config.KEY=VALUE.

    `num_codewords` is that of the pixels' codes alone.
    """
    return config_dict.create(
        seed=0,
        final=False,
        bits=32,
        margin=0.5,
        quantization="straight_through",
        quantization_weight=1.0,
        num_epochs=20,
        batch_size=64,
        images_per_class=8,
        learning_rate=0.003,
        activation="linear",
        num_codewords=256,
    )


def build(config: ConfigDict) -> train.Experiment:
    """Wires the experiment.

    Args:
      config: From `get_config`.

    Returns:
      What `train.fit` runs.

    Raises:
      ValueError: see `quantization`, `activation` and `sampler`.
    """
    digits = dqn_mnist.splits(config)
    network = models.convnet(
        (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=config.bits
    )
    method = methods.triplet_quantization(
        network,
        bits=config.bits,
        margin=config.margin,
        quantization=quantization(config),
        activation=activation(config),
        quantization_weight=config.quantization_weight,
    )
    optimizer_of = {"net": dqn.optimizer(config, len(digits.train))}
    experiment = dqn_mnist.wire(config, "triplet_quantization_mnist", method, optimizer_of, digits)
    return experiment._replace(sampler=sampler(config, digits))


def quantization(config: ConfigDict) -> Quantization:
    """Returns the quantization loss that the config names.

    Args:
      config: Its quantization and margin; codes get the same share of the largest distance.

    Raises:
      ValueError: if it is not "straight_through", "asymmetric", "order_drop" or "sign_error".
    """
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
    return _named("quantization", config.quantization, known)


def activation(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns what makes the embedding of the network's output.

    Args:
      config: Its activation.

    Raises:
      ValueError: if it is neither "linear" nor "tanh".
    """
    known = {"linear": lambda x: x, "tanh": jnp.tanh}
    return _named("activation", config.activation, known)


def sampler(config: ConfigDict, splits: data.Splits) -> data.Sampler:
    """Returns batches of batch_size / images_per_class classes.

    Args:
      config: Its batch_size and images_per_class.
      splits: Whose training images are drawn.

    Raises:
      ValueError: if the one does not divide the other, or classes are too few or too small.
    """
    num_classes, rest = divmod(config.batch_size, config.images_per_class)
    if rest:
        raise ValueError(
            f"batch_size must be a multiple of images_per_class, got {config.batch_size} and "
            f"{config.images_per_class}"
        )
    return data.class_balanced(
        splits.source.labels[splits.train],
        classes_per_batch=num_classes,
        images_per_class=config.images_per_class,
    )


def _named(name, word, known):
    if word not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {word!r}")
    return known[word]


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="triplet quantization")
