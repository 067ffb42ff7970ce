"""Which rows make which batch: pure functions of seed and epoch, on any number of devices."""

from collections.abc import Callable

import numpy as np

Sampler = Callable[[int, int], np.ndarray]
"""(seed, epoch) -> positions in train, int64 [steps, B] or [steps, B, V]."""


def _check_sizes(num_rows: int, batch_size: int) -> None:
    if num_rows < 1 or batch_size < 1:
        raise ValueError(
            f"num_rows and batch_size must be 1 or more, got {num_rows} and {batch_size}"
        )


def shuffled(num_rows: int, batch_size: int) -> Sampler:
    """Returns a sampler that visits rows in random order, each at most once an epoch.

    The rows left over when batch_size does not divide num_rows are dropped, other ones each epoch.

    Raises:
      ValueError: if one batch does not fit in num_rows.
    """
    _check_sizes(num_rows, batch_size)
    if batch_size > num_rows:
        raise ValueError(
            f"batch_size must be at most the {num_rows} training rows, got {batch_size}"
        )
    num_steps = num_rows // batch_size

    def sampler(seed: int, epoch: int) -> np.ndarray:
        order = np.random.default_rng((seed, epoch)).permutation(num_rows)
        return order[: num_steps * batch_size].reshape(num_steps, batch_size).astype(np.int64)

    return sampler


def padded(num_rows: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns every row once in order, [steps, B] int64, and which are real, [steps, B] bool.

    The last batch is filled up with row 0, whose mask is False.
    """
    _check_sizes(num_rows, batch_size)
    positions = np.arange(-(-num_rows // batch_size) * batch_size, dtype=np.int64)
    mask = positions < num_rows
    rows = np.where(mask, positions, 0)
    return rows.reshape(-1, batch_size), mask.reshape(-1, batch_size)
