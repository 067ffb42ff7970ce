"""Finds the pairs of a batch that share a label, and averages and weighs losses over pairs.

A device has b of the batch's B rows, and compares them with the rows of all devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax import labels, losses
from quantjax.batch import Batch
from quantjax.methods.base import Context, known_labels


class Pairs(NamedTuple):
    """Marks the pairs of this device's rows and all rows of a batch, [b, B] bool each.

    Attributes:
      similar: Two images that share a label.
      dissimilar: Two images that share none.
      counted: Either: all pairs but those of an image with itself.
    """

    similar: jax.Array
    dissimilar: jax.Array
    counted: jax.Array


def in_batch(batch: Batch, context: Context) -> Pairs:
    """Returns which pairs of a batch share a label.

    Args:
      batch: Has "label" and "index".
      context: Gathers the rows of all devices.

    Raises:
      ValueError: if the batch has no labels.
    """
    label = known_labels(batch)
    # Images without any label share none, and are dissimilar to all.
    similar = labels.share_label(label, context.gather(label))
    # An image is not its own positive, even if a sampler repeats it in a batch.
    counted = batch["index"][:, None] != context.gather(batch["index"])
    return Pairs(similar & counted, ~similar, counted)


def mean(values: jax.Array, mask: jax.Array, context: Context) -> jax.Array:
    """Averages values over the entries of a mask, of all devices; 0 where the mask is empty.

    Args:
      values: This device's values, of any shape.
      mask: Whether each value counts, of the same shape.
      context: Averages over the devices.

    Returns:
      This device's part: the mean of the results of all devices is the mean over the mask.
    """
    # Divided by the mean count of all devices, because each device chooses another number.
    count = context.mean(jnp.sum(mask, dtype=jnp.float32))
    return jnp.sum(values, where=mask) / jnp.where(count > 0, count, 1)


def weights(pairs: Pairs, context: Context, jaccard: jax.Array | None = None) -> jax.Array:
    """Returns `losses.pair_weights` of a batch: its similar and dissimilar pairs weigh the same.

    Args:
      pairs: From `in_batch`.
      context: Averages over the devices.
      jaccard: Further weights of similar pairs, [b, B], see `losses.pair_weights`.

    Returns:
      Weights [b, B]; 2 for all pairs where the batch has pairs of one kind only.
    """
    # Of the whole batch: the rows of one device may have no similar pair.
    similar, counted = (
        context.mean(jnp.sum(marks, dtype=jnp.float32)) for marks in (pairs.similar, pairs.counted)
    )
    fraction = similar / jnp.maximum(counted, 1)
    # A weight is infinite for a kind without pairs, and 0 times infinity is a gradient of NaN.
    fraction = jnp.where((fraction > 0) & (fraction < 1), fraction, 0.5)
    return losses.pair_weights(pairs.similar, jaccard, similar_fraction=fraction)
