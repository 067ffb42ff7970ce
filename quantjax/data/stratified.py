"""Splits rows into parts with equal shares of every class."""

from collections.abc import Mapping

import numpy as np

from quantjax.data.class_counts import class_ids
from quantjax.errors import InputError


def stratified(
    labels: np.ndarray, shares: Mapping[str, float], *, seed: int
) -> dict[str, np.ndarray]:
    """Splits rows at random into parts, such as train and test, with equal shares of every class.

    From n rows of a class, part p gets floor(n * c_p + u) - floor(n * c_(p-1) + u) rows of a
    permutation. c_p is the sum of the shares up to part p, and u is uniform in [0, 1) for each
    class, so that the expected number is n times the share even for small n. The first part gets at
    least one row of each class, since a class without training rows cannot be learned.

    Args:
      labels: One-hot [N, L], or class ids [N].
      shares: Part -> its share of rows, such as {"train": 80, "validation": 10, "test": 10}; only
        ratios count.
      seed: Seed of the draw.

    Returns:
      Part -> its rows, sorted int64; each row is in one part.

    Raises:
      ValueError: if a row has no label or several labels, a share is negative, or the first share
        is 0.
    """
    sums = np.cumsum(list(shares.values()), dtype=np.float64)
    if not np.isfinite(sums).all() or min(shares.values()) < 0 or sums[0] <= 0:
        raise InputError(f"shares must be 0 or more, and the first above 0, got {dict(shares)}")
    ids = class_ids(labels)
    rng = np.random.default_rng(seed)
    drawn: list[list[np.ndarray]] = [[] for _ in shares]
    for class_id in np.unique(ids):
        rows = rng.permutation(np.flatnonzero(ids == class_id))
        # The last sum is 1 exactly, so that rounding loses no row.
        ends = np.floor(len(rows) * (sums / sums[-1]) + rng.random()).astype(int)
        ends[0] = max(ends[0], 1)
        for part, chosen in zip(drawn, np.split(rows, ends[:-1]), strict=True):
            part.append(chosen)
    return {name: np.sort(np.concatenate(part)) for name, part in zip(shares, drawn, strict=True)}
