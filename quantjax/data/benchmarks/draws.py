"""Draws of queries and training photos where no split is published.

Training photos stay in the database, as the field has it for these data sets; queries do not.
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
    """Returns as many queries and training rows of every class, where a row may have several.

    Classes take turns, the one with the fewest rows first, of equals the one in the earlier column.
    Each permutes, by `numpy.random.default_rng(seed)`, its rows that no class took before: the
    first are its queries, the next train. A row is thus taken for one class, and counts may be
    larger by its other labels.

    Args:
      labels: Multi-hot labels [N, L].
      classes: Names of the L classes, for errors.
      query_per_class: Queries that every class takes.
      train_per_class: Training rows that every class takes.
      seed: Of the draw.

    Returns:
      Sorted rows: "query", "train", and "database", which is all but the queries.

    Raises:
      ValueError: if a class has too few rows left.
    """
    rng = np.random.default_rng(seed)
    is_query, is_train = np.zeros((2, len(labels)), bool)
    due = query_per_class + train_per_class
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
    """Returns queries and training rows drawn whatever their labels.

    The first of a permutation of all rows, by `numpy.random.default_rng(seed)`, are the queries,
    the next train.

    Args:
      num_rows: N.
      num_query: Number of queries.
      num_train: Number of training rows.
      seed: Of the draw.

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
