"""Networks of two random views: what methods without labels learn from.

A view is a random change of an image under which its code should stay: a crop, a flip, other
colours. `of_two_views` runs a network on two views of each row of a batch; its output serves every
loss of `supervised` and `supervised_with_arrays`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quantjax.batch import Augment, Batch
from quantjax.errors import InputError
from quantjax.methods.base import Context, Inputs
from quantjax.methods.contract import shown
from quantjax.models.base import Network


class Views(NamedTuple):
    """Embeddings of two views, the columns to compare them with, and each row's own column.

    The fields are the arguments of the losses of two views, such as `losses.cibhash(*views)`.

    Attributes:
      first: Embeddings of one view, [B, D]: the rows of this device.
      second: Embeddings of the other view, [B, D].
      all_first: `first` of all devices, [N, D].
      all_second: `second` of all devices, [N, D].
      own: Position of each row among the rows of all devices, [B] int; if an image stands twice in
        a batch, its first position.
      ignored: Whether a row and a column are of the same image, [B, N] bool.
    """

    first: jax.Array
    second: jax.Array
    all_first: jax.Array
    all_second: jax.Array
    own: jax.Array
    ignored: jax.Array


def whole(batch: Batch) -> Batch:
    """Returns the batch itself: the input of a network of views."""
    return batch


def of_two_views(network: Network, view: Augment, inputs: Inputs) -> Network:
    """Returns a network of batches that in training embeds two random views of each row.

    Args:
      network: Inputs -> [B, D].
      view: `(key, batch) -> batch`, as `Experiment.augment` is, but on preprocessed batches. It is
        called for one row at a time, with a key of that row's "index": the views are the same on
        any number of devices.
      inputs: Selects the network's input from a batch.

    Returns:
      A network whose input is a batch, see `whole`: [B, 2 D] in training, both views side by side,
      for `split` to take apart; otherwise [B, D] of the batch without a view.
    """
    if not callable(view):
        raise InputError(
            f"view must be a function (key, batch) -> batch, got {shown(view)}; "
            "data.augment.on_images makes one of image transforms"
        )

    def apply(params, net_state, batch, *, train: bool, key: Any = None):
        if not train:
            return network.apply(params, net_state, inputs(batch), train=False)
        embeddings = []
        # One after the other, so that batch statistics are of one view, as in the public code.
        for each in jax.random.split(key):
            # The view's keys are two folds away, or an image's could be that of the dropout.
            row_key = jax.random.fold_in(each, 1)
            x = inputs(_viewed(view, row_key, batch))
            y, net_state = network.apply(params, net_state, x, train=True, key=each)
            embeddings.append(y)
        return jnp.concatenate(embeddings, axis=1), net_state

    return Network(lambda key, batch: network.init(key, inputs(batch)), apply)


def split(x: jax.Array, batch: Batch, context: Context) -> Views:
    """Splits the output of a network of two views, and gathers the rows of all devices.

    Args:
      x: Output of `of_two_views` in training, [B, 2 D].
      batch: Its "index".
      context: See `Context`.
    """
    # By image, since no loss knows its device.
    same = batch["index"][:, None] == context.gather(batch["index"])
    halves = jnp.split(x, 2, axis=1)
    return Views(*halves, *map(context.gather, halves), jnp.argmax(same, axis=1), same)


def _viewed(view, key, batch):
    """Applies a view to each row by itself, with the row's key."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])

    def of_row(key, row):
        changed = view(key, jax.tree.map(lambda column: column[None], row))
        return jax.tree.map(lambda column: column[0], changed)

    return jax.vmap(of_row)(keys, batch)
