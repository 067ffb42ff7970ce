"""Samples the rows of every batch, as pure functions of seed and epoch."""

from typing import Protocol

import numpy as np

from quantjax.data.class_counts import class_ids
from quantjax.errors import InputError


class Sampler(Protocol):
    """Chooses the rows of every batch of an epoch."""

    def __call__(self, seed: int, epoch: int, /) -> np.ndarray:
        """Returns positions among the training rows, int64 [steps, B] or [steps, B, V].

        Args:
          seed: Seed of the experiment; seed and epoch alone decide the positions.
          epoch: Number of the epoch, from 0; every epoch has the same number of steps.
        """
        ...


def _check_sizes(num_rows: int, batch_size: int) -> None:
    if num_rows < 1 or batch_size < 1:
        raise InputError(
            f"num_rows and batch_size must be 1 or more, got {num_rows} and {batch_size}"
        )


def shuffled(num_rows: int, batch_size: int) -> Sampler:
    """Returns a sampler that visits the rows in random order, each row at most once per epoch.

    If batch_size does not divide num_rows, the left-over rows are dropped. They differ from epoch
    to epoch.

    Raises:
      ValueError: if batch_size is larger than num_rows.
    """
    _check_sizes(num_rows, batch_size)
    if batch_size > num_rows:
        raise InputError(
            f"batch_size must be at most the {num_rows} training rows, got {batch_size}"
        )
    num_steps = num_rows // batch_size

    def sampler(seed: int, epoch: int) -> np.ndarray:
        # Of seed and epoch alone, so that a resumed run needs no state of a generator.
        order = np.random.default_rng((seed, epoch)).permutation(num_rows)
        return order[: num_steps * batch_size].reshape(num_steps, batch_size).astype(np.int64)

    return sampler


def class_balanced(labels: np.ndarray, *, classes_per_batch: int, images_per_class: int) -> Sampler:
    """Returns a sampler whose batches hold P classes with K images each, for triplet losses.

    Every epoch each class's images are shuffled and cut into groups of K. A batch takes one group
    from each of the P classes with the most groups left, until fewer than P classes have any group.
    So an image is visited at most once per epoch, and the images left out change with the epoch.

    Args:
      labels: Labels of the training rows: one-hot [N, L], or class ids [N].
      classes_per_batch: P, 2 or more, or there are no negatives.
      images_per_class: K, 2 or more, or there are no positives; B = P K.

    Returns:
      The sampler; a batch's rows are ordered class by class.

    Raises:
      ValueError: if P or K is below 2, there are fewer than P classes, a class has fewer than K
        images, or a row has no label or several labels.
    """
    sizes = {"classes_per_batch": classes_per_batch, "images_per_class": images_per_class}
    for (name, size), lack in zip(sizes.items(), ("negatives", "positives"), strict=True):
        if size < 2:
            raise InputError(f"{name} must be 2 or more, got {size}: a batch would have no {lack}")
    names, members, counts = np.unique(class_ids(labels), return_inverse=True, return_counts=True)
    if len(names) < classes_per_batch:
        raise InputError(
            f"classes_per_batch must be at most the {len(names)} classes of the training rows, "
            f"got {classes_per_batch}"
        )
    if counts.min() < images_per_class:
        raise InputError(
            f"images_per_class must be at most the {counts.min()} training images of class "
            f"{names[counts.argmin()]}, got {images_per_class}"
        )
    # Labels may be any class ids; `members` numbers those that occur.
    rows_of = [np.flatnonzero(members == place) for place in range(len(names))]
    num_groups = counts // images_per_class

    def sampler(seed: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        groups = [
            rng.permutation(rows)[: number * images_per_class].reshape(number, images_per_class)
            for rows, number in zip(rows_of, num_groups, strict=True)
        ]
        left = num_groups.copy()
        batches = []
        while np.count_nonzero(left) >= classes_per_batch:
            # The classes with most left, equals at random: no other order makes more batches.
            chosen = np.lexsort((rng.random(len(left)), -left))[:classes_per_batch]
            left[chosen] -= 1
            batches.append(np.concatenate([groups[place][left[place]] for place in chosen]))
        # Shuffled: large classes lead the batches built first, and small ones the rest.
        return rng.permutation(np.stack(batches)).astype(np.int64)

    return sampler


def padded(num_rows: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns batches of all rows in order, the last padded with row 0, and their masks.

    Returns:
      Rows [steps, B] int64, and masks [steps, B] bool that are False for padding.
    """
    _check_sizes(num_rows, batch_size)
    positions = np.arange(-(-num_rows // batch_size) * batch_size, dtype=np.int64)
    mask = positions < num_rows
    rows = np.where(mask, positions, 0)
    return rows.reshape(-1, batch_size), mask.reshape(-1, batch_size)
