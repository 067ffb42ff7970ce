"""Draws triplets from a batch, and averages losses over them, alike on any number of devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax.batch import Batch
from quantjax.losses import selection
from quantjax.losses.rows import squared_distances, widen
from quantjax.methods import pairs
from quantjax.methods.base import Context


def random_negatives(
    x: jax.Array, batch: Batch, context: Context, *, margin: float
) -> selection.Triplets:
    """Draws, for each row and positive, a negative of the batch that violates the margin.

    It is `losses.selection.random_violating`, which DTQ's Group Hard applies to random groups of
    the training set: here the batch is the group.

    Args:
      x: Embeddings of this device's rows, [b, D].
      batch: Has "label" and "index".
      context: Gives the random key, and gathers the rows of all devices.
      margin: m, in units of squared distance; infinite for any negative.

    Returns:
      Triplets [b * B] of row numbers: anchors in `x`, the others in `context.gather(x)`.

    Raises:
      ValueError: if the batch has no labels.
    """
    a = widen(jax.lax.stop_gradient(x))
    found = pairs.in_batch(batch, context)
    distances = squared_distances(a, context.gather(a))
    # Folded in, because the network's dropout has the context's key itself. Then a key for each
    # image, not each place: the draws are the same on any number of devices.
    key = jax.random.fold_in(context.key, 1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    draw = functools.partial(selection.random_violating, margin=margin)
    of_rows = (each[:, None] for each in (distances, found.similar, found.dissimilar))
    chosen = jax.vmap(draw)(keys, *of_rows)
    # Each row was alone, an anchor number 0.
    anchors = jnp.broadcast_to(jnp.arange(len(x))[:, None], distances.shape)
    return jax.tree.map(jnp.ravel, chosen._replace(anchors=anchors))


def mean(
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    candidates: jax.Array,
    chosen: selection.Triplets,
    context: Context,
) -> jax.Array:
    """Averages a loss over chosen triplets, of all devices; 0 where none is chosen.

    Args:
      loss: `(anchors, positives, negatives [T, D]) -> [T]`.
      x: This device's rows, [b, D]: the anchors.
      candidates: Positives and negatives, [B, D]: rows of all devices.
      chosen: From `random_negatives`, or a function of `losses.selection`.
      context: Averages over the devices.

    Returns:
      This device's part, see `pairs.mean`.
    """
    rows = x[chosen.anchors], candidates[chosen.positives], candidates[chosen.negatives]
    return pairs.mean(loss(*rows), chosen.mask, context)
