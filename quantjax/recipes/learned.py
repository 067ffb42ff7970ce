"""Learns codes of features, with classes or without, into the parts of an encoder."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax import data, evaluate, models, train
from quantjax.methods import Method
from quantjax.models import features
from quantjax.quantizers import Codec
from quantjax.recipes.codes import vector_embedding
from quantjax.recipes.unlabelled import better_of_opq_and_itq
from quantjax.run import parallel


class Learned(NamedTuple):
    """Holds the parts of an encoder, and how well it does.

    Attributes:
      embed: `(weights, x) -> [B, D]`, pure; x are features [B, F], or images after `of_photos`.
      weights: Pytree of arrays.
      codec: Codec of the embeddings.
      results: Results of the test queries, by codes and without codes; empty without classes.
      recalls: Share of true neighbours that each kind of code found; empty with classes.
    """

    embed: Callable[[Any, jax.Array], jax.Array]
    weights: Any
    codec: Codec
    results: list[evaluate.Results]
    recalls: dict[str, float]


def learn_classes(
    experiment: train.Experiment, *, callbacks: Sequence[Callable[[dict[str, Any]], None]] = ()
) -> Learned:
    """Learns codes of features with classes, and measures them.

    Args:
      experiment: From `recipes.experiment`.
      callbacks: See `train.fit`.

    Raises:
      ValueError: if training rows have no class, or all have one class.
    """
    return measured(experiment, trained(experiment, callbacks=callbacks))


def measured(experiment: train.Experiment, state: train.TrainState) -> Learned:
    """Measures trained codes of features.

    Args:
      experiment: From `recipes.experiment`.
      state: Its train state, from `trained` or `refitted`.
    """
    # Own photos are often there twice: the audit is in the results, and stops nothing.
    audited = data.audit(experiment.splits, max_equal_images=1)
    found = evaluate.evaluate_method(
        experiment, state, mesh=one_device(), name="codes", audited=audited
    )
    weights = {"params": state.params, "state": state.state}
    return Learned(of_features(experiment.method), weights, found.codec, found.results, {})


def trained(
    experiment: train.Experiment, *, callbacks: Sequence[Callable[[dict[str, Any]], None]] = ()
) -> train.TrainState:
    """Trains the recipe on one device, which is enough for a perceptron.

    Args:
      experiment: From `recipes.experiment`.
      callbacks: See `train.fit`.

    Raises:
      ValueError: if training rows have no class, or all have one class.
    """
    data.check_training_labels(experiment.splits)
    return train.fit(experiment, mesh=one_device(), callbacks=callbacks, progress=False).state


def one_device() -> Mesh:
    """Returns the mesh of one device, on which recipes train."""
    # Several would have to divide the batch, which may be of a few photos.
    return parallel.data_mesh(jax.local_devices()[:1])


def of_features(method: Method) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns a method's embedding of features, `({"params", "state"}, x [B, F]) -> [B, D]`."""

    def embed(weights, x):
        return method.embed(weights["params"], weights["state"], {"feature": x})

    return embed


def learn_neighbours(x: np.ndarray, *, bits: int, seed: int = 0) -> Learned:
    """Fits the better of OPQ and ITQ to features without classes, centred and of one length.

    Args:
      x: Features [N, F].
      bits: Code length.
      seed: Seed of all randomness.

    Raises:
      ValueError: if there are too few rows, or NaN.
    """
    mean = x.mean(axis=0)
    rows = np.asarray(jax.jit(models.standardize)(x, mean))
    choice = better_of_opq_and_itq(rows, bits=bits, seed=seed)
    of_rows = vector_embedding(choice.codec, "l2")

    def embed(weights, x):
        return of_rows({}, models.standardize(x, weights["mean"]))

    return Learned(embed, {"mean": mean}, choice.codec, [], choice.recalls)


def of_photos(learned: Learned, extractor: features.Extractor) -> Learned:
    """Puts an extractor of features in front of codes that were learned of its features.

    Args:
      learned: Of features.
      extractor: Images -> features.

    Returns:
      The same codes, of images [B, H, W, C] uint8.
    """

    def extract(weights, images):
        # Activations of few images fit a CPU's cache, see `features.ROWS`.
        if len(images) % features.ROWS:
            return extractor.apply(weights, images)
        turns = images.reshape(-1, features.ROWS, *images.shape[1:])
        x = jax.lax.map(functools.partial(extractor.apply, weights), turns)
        return x.reshape(len(images), -1)

    def embed(weights, images):
        return learned.embed(weights["codes"], extract(weights["network"], images))

    weights = {"codes": learned.weights, "network": extractor.weights}
    return learned._replace(embed=embed, weights=weights)
