"""Draws queries and training photos for data sets without a published split.

Training photos stay in the database, as in the papers on these data sets; queries do not.
"""

from collections.abc import Sequence

import numpy as np

from quantjax.errors import InputError


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
    is_query, is_train = np.zeros((2, len(labels)), bool)
    due = query_per_class + train_per_class
    # Rare classes first: frequent classes still find rows later, rare classes would not.
    for column in np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable"):
        free = np.flatnonzero((labels[:, column] > 0) & ~is_query & ~is_train)
        if len(free) < due:
            raise InputError(
                f"class {classes[column]} must have {due} photos that no rarer class took, got "
                f"{len(free)}"
            )
        order = rng.permutation(free)
        is_query[order[:query_per_class]] = True
        is_train[order[query_per_class:due]] = True
    return _rows(is_query, is_train)


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
    is_query, is_train = np.zeros((2, num_rows), bool)
    is_query[order[:num_query]] = True
    is_train[order[num_query : num_query + num_train]] = True
    return _rows(is_query, is_train)


def _rows(is_query: np.ndarray, is_train: np.ndarray) -> dict[str, np.ndarray]:
    masks = {"query": is_query, "train": is_train, "database": ~is_query}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}
