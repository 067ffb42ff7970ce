"""Which items are relevant to which query: a grade per pair, looked up by label pattern.

Items of equal labels form a pattern. Grades are worked out for patterns, of which there are as many
as classes in a single-label set, and not for items.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.labels import as_labels


class Relevance(NamedTuple):
    """Labels of both sides; made by `relevance`.

    Attributes:
      queries: Class ids [Q] int64, or multi-hot labels [Q, L] float32.
      patterns: The distinct labels of the database: ids [P], or multi-hot [P, L] float32.
      database: The pattern of each item, [N] int32.
    """

    queries: np.ndarray
    patterns: np.ndarray
    database: np.ndarray

    def grades(self, rows: np.ndarray | slice) -> np.ndarray:
        """Counts the labels that queries share with patterns.

        Args:
          rows: Which queries.

        Returns:
          Grades [q, P] int32: 0 is irrelevant, and with class ids 1 is the most.
        """
        queries = self.queries[rows]
        if queries.ndim == 1:
            return (queries[:, None] == self.patterns).astype(np.int32)
        return (queries @ self.patterns.T).astype(np.int32)

    @property
    def num_grades(self) -> int:
        """One more than the largest grade that labels of this kind can have."""
        if self.queries.ndim == 1:
            return 2
        labels = [side.sum(axis=1).max(initial=0) for side in (self.queries, self.patterns)]
        return 1 + max(1, int(min(labels)))

    def digest(self, task: str) -> str:
        """Returns 16 hex digits of the queries' labels in order and the items' in any order.

        Args:
          task: What else identifies queries and items.
        """
        items = np.bincount(self.database, minlength=len(self.patterns))
        digest = hashlib.sha256(task.encode())
        for part in (self.queries, self.patterns, items):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def items_and_relevant(counts: np.ndarray) -> np.ndarray:
    """Forgets grades.

    Args:
      counts: Items of each grade at each distance, [Q, levels, G].

    Returns:
      All items and relevant ones, those of a grade above 0, [Q, levels, 2].
    """
    relevant = functools.reduce(np.add, np.moveaxis(counts[..., 1:], -1, 0))
    return np.stack([counts[..., 0] + relevant, relevant], axis=-1)


def relevance(query_labels: np.ndarray, database_labels: np.ndarray) -> Relevance:
    """Makes labels of either kind comparable; an item that shares a label is relevant.

    Args:
      query_labels: Class ids [Q], or one-hot or multi-hot rows [Q, L] of zeros and ones.
      database_labels: Likewise of the N items; ids on one side are ids of the other's L columns.

    Returns:
      The relevance. The arguments are not written to.

    Raises:
      ValueError: naming the argument and its shape, if it is none of these or the two differ in L.
    """
    _check_labelled(query_labels, database_labels)
    queries = _checked("query_labels", query_labels)
    database = _checked("database_labels", database_labels)
    if queries.ndim != database.ndim:
        queries = _one_hot("query_labels", queries, database)
        database = _one_hot("database_labels", database, queries)
    if queries.ndim == 2 and queries.shape[1] != database.shape[1]:
        raise InputError(
            f"query_labels have {queries.shape[1]} classes, database_labels {database.shape[1]}: "
            f"shapes {queries.shape} and {database.shape}"
        )
    if queries.ndim == 2 and all((side.sum(axis=1) == 1).all() for side in (queries, database)):
        queries, database = queries.argmax(axis=1), database.argmax(axis=1)  # one-hot
    if queries.ndim == 1:
        return Relevance(queries, *_distinct_ids(database))
    packed = np.packbits(database, axis=1)
    scalars = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, which = np.unique(scalars, return_index=True, return_inverse=True)
    patterns = database[first].astype(np.float32)
    return Relevance(queries.astype(np.float32), patterns, which.astype(np.int32))


def _check_labelled(query_labels, database_labels):
    for name, labels in (("query_labels", query_labels), ("database_labels", database_labels)):
        if getattr(labels, "shape", ())[1:] == (0,):
            raise InputError(
                f"{name} {labels.shape} hold no classes: without labels nothing is measured; "
                "embedding and encode need none"
            )


def _distinct_ids(ids):
    if not len(ids) or ids.max() > 4 * len(ids) + 1024:
        distinct, which = np.unique(ids, return_inverse=True)
        return distinct, which.astype(np.int32)
    occurs = np.bincount(ids) > 0  # without a sort, where ids are small numbers as they mostly are
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[ids]


def _checked(name, labels):
    """Returns class ids [N] int64 or labels [N, L] bool."""
    labels = np.asarray(as_labels(name, labels))
    return labels.astype(np.int64 if labels.ndim == 1 else bool)


def _one_hot(name, labels, other):
    if labels.ndim == 2:
        return labels
    num_labels = other.shape[1]
    if labels.size and labels.max() >= num_labels:
        raise InputError(
            f"{name} of shape {labels.shape} hold class {labels.max()}, the other side's labels "
            f"have shape {other.shape}"
        )
    return labels[:, None] == np.arange(num_labels)
