"""Draws rows at random into parts or lists, by class or regardless of labels."""

from collections.abc import Mapping, Sequence

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
    # Every draw below is pinned by digests of splits: the order of draws must not change.
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


def classwise(
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    query_per_class: int,
    train_per_class: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Draws the same number of queries and of training rows for every class of multi-label rows.

    Classes take turns, the class with the fewest rows first; of equal classes the earlier column
    goes first. Each class permutes, by `numpy.random.default_rng(seed)`, its rows that no class
    took before: the first rows become its queries, the next rows train. So a row is taken for a
    single class, and a class may have more rows by their other labels.

    Args:
      labels: Multi-hot labels [N, L].
      classes: Names of the L classes, for errors.
      query_per_class: Number of queries that every class takes.
      train_per_class: Number of training rows that every class takes.
      seed: Seed of the draw.

    Returns:
      Sorted rows: "query", "train", and "database", which is all but the queries.

    Raises:
      ValueError: if a class has too few rows left.
    """
    rng = np.random.default_rng(seed)
    part = np.zeros(len(labels), np.int8)  # 1 for queries, 2 for training rows
    due = query_per_class + train_per_class
    # Rare classes first: frequent classes still find rows later, rare classes would not.
    for column in np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable"):
        free = np.flatnonzero((labels[:, column] > 0) & (part == 0))
        if len(free) < due:
            raise InputError(
                f"class {classes[column]} must have {due} photos that no rarer class took, got "
                f"{len(free)}"
            )
        order = rng.permutation(free)
        part[order[:query_per_class]] = 1
        part[order[query_per_class:due]] = 2
    masks = {"query": part == 1, "train": part == 2, "database": part != 1}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def at_random(num_rows: int, *, num_query: int, num_train: int, seed: int) -> dict[str, np.ndarray]:
    """Draws queries and training rows at random, without regard to labels.

    The rows are permuted by `numpy.random.default_rng(seed)`: the first are the queries, the next
    train.

    Args:
      num_rows: N.
      num_query: Number of queries.
      num_train: Number of training rows.
      seed: Seed of the draw.

    Returns:
      Sorted rows: "query", "train", and "database", which is all but the queries.

    Raises:
      ValueError: if there are too few rows.
    """
    if num_rows <= num_query + num_train:
        raise InputError(
            f"{num_query} queries and {num_train} training photos need more photos than {num_rows}"
        )
    order = np.random.default_rng(seed).permutation(num_rows)
    query, train = order[:num_query], order[num_query : num_query + num_train]
    # Training rows stay in the database, as in the papers on sets without a published split.
    rows = {"query": query, "train": train, "database": order[num_query:]}
    return {name: np.sort(each) for name, each in rows.items()}
