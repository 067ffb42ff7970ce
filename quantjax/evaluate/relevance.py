"""Relevance of items to queries: the grade of each pair, looked up by label pattern.

Items of equal labels form a pattern. Grades are computed per pattern, not per item; a single-label
set has one pattern per class.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.labels import as_labels


class Relevance(NamedTuple):
    """Labels of queries and database, from which grades are looked up; made by `relevance`.

    Attributes:
      queries: Class ids [Q] int64, or multi-hot labels [Q, L] float32.
      patterns: The distinct labels of the database: ids [P], or multi-hot [P, L] float32.
      database: The pattern of each item, [N] int32.
    """

    queries: np.ndarray
    patterns: np.ndarray
    database: np.ndarray

    def grades(self, rows: np.ndarray | slice) -> np.ndarray:
        """Returns grades: the number of labels that each query shares with each pattern.

        Args:
          rows: Numbers of the queries.

        Returns:
          Grades [q, P] int32: 0 is irrelevant; class ids give at most 1.
        """
        queries = self.queries[rows]
        if queries.ndim == 1:
            return (queries[:, None] == self.patterns).astype(np.int32)
        return (queries @ self.patterns.T).astype(np.int32)

    @property
    def num_grades(self) -> int:
        """Returns one more than the largest possible grade."""
        if self.queries.ndim == 1:
            return 2
        # No pair can share more labels than the side with fewer has.
        labels = [side.sum(axis=1).max(initial=0) for side in (self.queries, self.patterns)]
        return 1 + max(1, int(min(labels)))

    def check_lengths(self, num_queries: int, num_items: int) -> None:
        """Raises ValueError, naming the labels, if there are not as many as queries and items."""
        for name, labels, due in (
            ("query_labels", self.queries, num_queries),
            ("database_labels", self.database, num_items),
        ):
            if len(labels) != due:
                raise InputError(f"{name} must be of {due} items, got {len(labels)}")

    def digest(self, task: str) -> str:
        """Returns a hash, 16 hex digits, of the labels: queries in order, items unordered.

        Args:
          task: Further text that identifies queries and items.
        """
        items = np.bincount(self.database, minlength=len(self.patterns))
        digest = hashlib.sha256(task.encode())
        # Type and shape go in too: equal bytes of another shape are other labels.
        for part in (self.queries, self.patterns, items):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def items_and_relevant(counts: np.ndarray) -> np.ndarray:
    """Drops graded relevance and keeps only relevant or not.

    Args:
      counts: Items of each grade at each distance, [Q, levels, G].

    Returns:
      All items, and relevant items (grade above 0), [Q, levels, 2].
    """
    relevant = functools.reduce(np.add, np.moveaxis(counts[..., 1:], -1, 0))
    return np.stack([counts[..., 0] + relevant, relevant], axis=-1)


def relevance(query_labels: np.ndarray, database_labels: np.ndarray) -> Relevance:
    """Converts class ids or multi-hot labels to `Relevance`; items that share a label are relevant.

    Args:
      query_labels: Class ids [Q], or one-hot or multi-hot rows [Q, L] of zeros and ones.
      database_labels: The same for the N items; ids on one side are columns of the other side.

    Returns:
      The relevance. The arguments are not written to.

    Raises:
      ValueError: naming the argument and its shape, if its form is another or both differ in L.
    """
    _check_labelled(query_labels, database_labels)
    queries = _checked("query_labels", query_labels)
    database = _checked("database_labels", database_labels)
    # Ids on one side are columns of the other side, as datasets often store them.
    if queries.ndim != database.ndim:
        queries = _one_hot("query_labels", queries, database)
        database = _one_hot("database_labels", database, queries)
    if queries.ndim == 2 and queries.shape[1] != database.shape[1]:
        raise InputError(
            f"query_labels have {queries.shape[1]} classes, database_labels {database.shape[1]}: "
            f"shapes {queries.shape} and {database.shape}"
        )
    # Ids are compared faster than rows, and have one pattern a class.
    if queries.ndim == 2 and all((side.sum(axis=1) == 1).all() for side in (queries, database)):
        queries, database = queries.argmax(axis=1), database.argmax(axis=1)  # one-hot
    if queries.ndim == 1:
        return Relevance(queries, *_distinct_ids(database))
    # Rows viewed as opaque bytes: `np.unique` over scalars is much faster than over rows.
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
    """Checks labels and returns class ids [N] int64 or labels [N, L] bool."""
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
