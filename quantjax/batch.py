"""Defines the columns of a batch, and the types of augmentation and preprocessing functions."""

from typing import TYPE_CHECKING, Protocol, TypedDict

import jax

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
