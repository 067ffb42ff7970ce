"""Defines the columns of a batch, and the types of augmentation and preprocessing functions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp

from quantjax.errors import InputError

if TYPE_CHECKING:
    # A TypedDict refuses every column that it does not name, and Python 3.11 has no way to allow
    # more. So checkers see a dict of arrays, while `help` and readers see the columns.
    Batch = dict[str, jax.Array]
else:

    class Batch(TypedDict, total=False):
        """Maps column names to arrays of B rows for losses, augmentation and preprocessing.

        A batch is a plain dict. It has the columns of its source; `train.fit` adds "index". Users
        may add columns, as in `{**batch, "weight": weight}`. A column of V views has one more axis,
        [B, V, ...].

        Attributes:
          image: Images [B, H, W, C]; uint8 as sources give them, floating once preprocessed.
          feature: Features [B, F], floating.
          label: Multi-hot labels [B, L] of zeros and ones; L is 0 where no row has a label.
          index: Position of each row among the training rows, [B] int32; in training only.
          mask: Whether each row is real and not padding, [B] bool; not in training.
        """

        image: jax.Array
        feature: jax.Array
        label: jax.Array
        index: jax.Array
        mask: jax.Array


class Augment(Protocol):
    """Changes a training batch at random, on the device."""

    def __call__(self, key: jax.Array, batch: Batch, /) -> Batch:
        """Returns the augmented batch.

        Args:
          key: Random key of this step.
          batch: See `Batch`, as the source gives it; `{**batch, "image": ...}` replaces a column.
        """
        ...


class Preprocess(Protocol):
    """Converts a batch into the network's inputs, in training and in evaluation."""

    def __call__(self, batch: Batch, /) -> Batch:
        """Returns the preprocessed batch.

        Args:
          batch: See `Batch`; `{**batch, "image": ...}` replaces a column.
        """
        ...


class Collectives(NamedTuple):
    """Communication functions of a step: gathering rows, and averaging, over all devices.

    Under `jit` the batch is global and both are identities; under `pmap` they are a tiled
    all_gather and a pmean.

    Attributes:
      gather: `[B / n, ...] -> [B, ...]`, the rows of all devices.
      mean: pytree -> pytree, the mean over devices.
    """

    gather: Callable[[jax.Array], jax.Array] = lambda x: x
    mean: Callable[[Any], Any] = lambda x: x


_AXES = {"image": 4, "feature": 2}
"""Columns that may have views, and their axes without."""


def over_views(function: Callable[..., Any]) -> Callable[..., Any]:
    """Extends a function of single images to V views per row, and averages its results over views.

    Args:
      function: `(params, state, batch) -> pytree of [B, ...]`, called without views.

    Returns:
      The same function for images [B, H, W, C] or views [B, V, H, W, C] (ten-crop, say), and for
      features [B, F] or views [B, V, F]. Columns without views are repeated for each view.
    """

    def averaged(params, state, batch):
        viewed = columns_with_views(batch)
        if not viewed:
            return function(params, state, batch)
        rows, views = batch[viewed[0]].shape[:2]
        folded = {
            name: column.reshape(rows * views, *column.shape[2:])
            if name in viewed
            else jnp.repeat(column, views, axis=0)
            for name, column in batch.items()
        }
        out = function(params, state, folded)
        return jax.tree.map(lambda y: y.reshape(rows, views, *y.shape[1:]).mean(1), out)

    return averaged


def first_view(batch: Batch) -> Batch:
    """Returns the batch with only the first view of each row, as `init` and training use it.

    Args:
      batch: Its image is [B, H, W, C], or views [B, V, H, W, C]; its feature [B, F] or [B, V, F].

    Returns:
      The batch with image [B, H, W, C] and feature [B, F], as far as it has these columns.
    """
    return {**batch, **{name: batch[name][:, 0] for name in columns_with_views(batch)}}


def columns_with_views(batch: Batch) -> list[str]:
    """Returns the names of columns with views: images [B, V, H, W, C] and features [B, V, F].

    Args:
      batch: Its image is [B, H, W, C] or [B, V, H, W, C]; its feature [B, F] or [B, V, F].

    Raises:
      ValueError: if two columns have different numbers of views.
    """
    viewed = [
        name for name, axes in _AXES.items() if name in batch and batch[name].ndim == axes + 1
    ]
    if len({batch[name].shape[1] for name in viewed}) > 1:
        shapes = ", ".join(f"{name} {batch[name].shape}" for name in viewed)
        raise InputError(f"columns must have as many views each, got {shapes}")
    return viewed
