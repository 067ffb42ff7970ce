"""Triplet quantization loss on 5,000 MNIST digits that need no download.

    python -m experiments.triplet_quantization_mnist

The paper's claim in one experiment: how much mAP do binary codes lose against the real embedding
they are signs of, with the loss on triplets, with ||f - sgn f||^2, and with neither?

    --config.quantization=asymmetric        the second reading of the paper's loss; order_drop
                                            is the third
    --config.quantization=sign_error        ||f - sgn f||^2
    --config.quantization_weight=0          neither
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
