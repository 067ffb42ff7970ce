"""Splits a data set by class for one training and four evaluations, on seen and unseen classes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from quantjax.data.class_counts import rows_per_class
from quantjax.data.protocols import Splits, make_splits
from quantjax.data.sources import Source, cut
from quantjax.data.unseen import draw
from quantjax.errors import InputError

OMNIGLOT_UNSEEN = ("Early_Aramaic", "Japanese_katakana", "Tagalog")
"""Unseen alphabets of `omniglot_seen_unseen`."""

_DRAWERS = 20


class _Parts(NamedTuple):
    """Holds, for the parts that classes are split into, class ids or numbers of rows to draw."""

    train: Any
    validation: Any
    unseen: Any


def seen_unseen(
    source: Source,
    *,
    unseen: int | Sequence[str] = 3,
    validation: int | Sequence[str] = 2,
    query_per_class: int = 100,
    database_per_class: int = 500,
    train_per_class: int | None = 700,
    validation_per_class: int = 100,
    seed: int = 0,
) -> dict[str, Splits]:
    """Makes four splits for one training, whose queries and database have seen or unseen classes.

    Train and validation are equal in all four, so a method is trained once and evaluated on each:

      key                 queries         database
      "seen_in_seen"      seen classes    seen classes
      "unseen_in_unseen"  unseen classes  unseen classes
      "unseen_in_both"    unseen classes  seen and unseen classes
      "seen_in_both"      seen classes    seen and unseen classes

    Database rows of seen classes are held out of training, because a network that has memorised its
    training rows would find them without having learned the classes; `with_train` adds them.

    Validation asks what all four evaluations ask together: held-out rows of the trained classes,
    and rows of seen classes that are held out of training, search a database of both. One setting
    serves all four evaluations, so it must neither be chosen on the trained classes alone, where
    a class-id code looks best, nor on the untrained ones alone. `final` then trains on all rows of
    validation, equally in all four. No query or database row takes part in the choice.

    Args:
      source: Images of any number of labels; a row counts where all its labels are unseen, all
        validate, or all train, and is left out otherwise.
      unseen: Number of unseen classes to draw, or their names.
      validation: Number of seen classes to hold out of training, or their names.
      query_per_class: Number of rows of every class that are queries.
      database_per_class: Number of rows of every class that are searched.
      train_per_class: Number of rows of every seen class that train or validate; None for all
        other rows.
      validation_per_class: Number of these rows, of every seen class, that validation queries
        search; the queries are as many rows of every trained class, and all others of classes
        held out.
      seed: Seed of the draw; unseen classes and their rows do not depend on `validation`.

    Returns:
      Splits by the keys above, which are their names.

    Raises:
      ValueError: if there are no labels, a name is no class, train or the unseen part has fewer
        than two classes or validation has none, or a class has too few images.

    Reference:
      Sablayrolles et al., How Should We Evaluate Supervised Hashing?, ICASSP 2017, arXiv
      1609.06753 (for unseen classes; the four evaluations and validation are ours).
    """
    query, database, validate = query_per_class, database_per_class, validation_per_class
    trained = None if train_per_class is None else train_per_class - 2 * validate
    if min(query, database, validate, 1 if trained is None else trained) < 1:
        raise InputError(
            "numbers of images of a class must be 1 or more, and train_per_class above twice "
            f"validation_per_class, got {query_per_class} to ask, {database_per_class} to search, "
            f"{train_per_class} to train and {validation_per_class} to validate"
        )
    rng = np.random.default_rng(seed)
    classes = _parts(source, unseen, validation, rng.permutation(len(source.classes)))
    # Queries, database, rows that validation searches, validation queries, and training rows.
    sizes = _Parts(
        train=(query, database, validate, validate, trained),
        validation=(query, database, validate, trained and trained + validate),
        unseen=(query, database),
    )
    return _four(source, classes, sizes, rng.permutation, "")


def cifar10_seen_unseen(source: Source, *, seed: int = 0) -> dict[str, Splits]:
    """Splits CIFAR-10 as `seen_unseen`: 7 seen and 3 unseen classes, 4,900 rows to train on.

    2,500 rows train, 1,700 are validation queries and search 700; of each class 100 rows are
    queries and 500 the database. Official training and test images are treated alike.

    Raises:
      ValueError: if the source is not 6,000 images of each of 10 classes.
    """
    return _of_ten_classes(source, 6_000, "cifar10", seed)


def fashion_mnist_seen_unseen(source: Source, *, seed: int = 0) -> dict[str, Splits]:
    """Splits Fashion-MNIST as `cifar10_seen_unseen` splits CIFAR-10.

    Raises:
      ValueError: if the source is not 7,000 images of each of 10 classes.
    """
    return _of_ten_classes(source, 7_000, "fashion_mnist", seed)


def omniglot_seen_unseen(
    source: Source,
    *,
    unseen: Sequence[str] = OMNIGLOT_UNSEEN,
    validation: Sequence[str] = ("Korean",),
) -> dict[str, Splits]:
    """Splits Omniglot as `seen_unseen`, by alphabets and drawers, without a draw.

    In unseen alphabets drawers 1 to 5 are queries and drawers 6 to 20 the database. In seen
    alphabets drawers 1 and 2 are queries, 3 to 5 the database, and only 6 to 20 train or validate.
    Of these, 6 and 7 are searched by validation queries: drawers 8 and 9 of trained alphabets, and
    8 to 20 of alphabets held out. Korean is held out, because no other alphabet resembles it as
    Latin resembles Greek.

    Args:
      source: From `omniglot`.
      unseen: Unseen alphabets.
      validation: Seen alphabets that are held out of training.

    Raises:
      ValueError: if an alphabet is unknown, or the source is not 20 images of each character.
    """
    if set(rows_per_class(source.labels, len(source.classes))) != {_DRAWERS}:
        raise InputError(
            f"this protocol is of the {_DRAWERS} images of each character that data.omniglot() "
            f"reads, got {len(source)} images of {len(source.classes)} classes"
        )
    named = [_characters(source, alphabets) for alphabets in (unseen, validation)]
    classes = _parts(source, *named, np.arange(len(source.classes)))
    sizes = _Parts(train=(2, 3, 2, 2, None), validation=(2, 3, 2, None), unseen=(5, None))
    # Rows of a class stay in their order, which is that of the drawers.
    return _four(source, classes, sizes, lambda rows: rows, "omniglot")


def _of_ten_classes(source, per_class, reader, seed):
    """Makes the four splits of a data set of ten equal classes, named after its reader."""
    if rows_per_class(source.labels, len(source.classes)).tolist() != [per_class] * 10:
        raise InputError(
            f"this protocol is of the {per_class} images of each of 10 classes that "
            f"data.{reader}() reads, got {len(source)} images of {len(source.classes)} classes"
        )
    drawn = seen_unseen(source, seed=seed)
    return {key: each._replace(name=f"{reader}_{each.name}") for key, each in drawn.items()}


def _characters(source, alphabets):
    """Returns the classes of some alphabets of Omniglot."""
    known = [name.rpartition("-")[0] for name in source.classes]
    for alphabet in alphabets:
        if alphabet not in known:
            raise InputError(
                f"no alphabet {alphabet}, the source has {', '.join(dict.fromkeys(known))}"
            )
    return [name for name, its in zip(source.classes, known, strict=True) if its in alphabets]


def _parts(source, unseen, validation, order):
    """Takes unseen and validation classes, by name or the first in order; all others train."""
    if not source.classes:
        raise InputError("classes are drawn by labels, but the source has no labels")
    taken = []
    for part, wanted in (("unseen", unseen), ("validation", validation)):
        # In the order of the draw, so that the first names are drawn ones.
        left = {source.classes[class_id]: class_id for class_id in order}
        names = list(left)[: max(wanted, 0)] if isinstance(wanted, int) else wanted
        for name in names:
            if name not in left:
                raise InputError(
                    f"{part} names {name}, which is no class or taken already; classes are "
                    + ", ".join(cut(list(left)))
                )
        taken.append(np.array([left[name] for name in names], np.int64))
        order = order[~np.isin(order, taken[-1])]
    classes = _Parts(order, validation=taken[1], unseen=taken[0])
    # Two classes at least, or every item would be relevant to every query.
    if len(classes.train) < 2 or len(classes.validation) < 1 or len(classes.unseen) < 2:
        raise InputError(
            "train and the unseen part must have 2 classes or more each, and validation 1, got "
            + ", ".join(f"{len(ids)} {part}" for part, ids in classes._asdict().items())
            + f" of {len(source.classes)} classes; change unseen or validation"
        )
    return classes


def _four(
    source: Source,
    classes: _Parts,
    sizes: _Parts,
    order: Callable[[np.ndarray], np.ndarray],
    name: str,
) -> dict[str, Splits]:
    """Draws the rows of every part, and makes the four splits, which share train and validation."""
    # The unseen part draws first, so that it does not depend on the classes that validate.
    unseen = draw(source, classes.unseen, sizes.unseen, order)
    *held, asking = draw(source, classes.validation, sizes.validation, order)
    *seen, also_asking, train = draw(source, classes.train, sizes.train, order)
    query, database, searched = (np.union1d(*pair) for pair in zip(held, seen, strict=True))
    # Sorted, as are all lists: the order of rows must not tell seen from unseen.
    both = np.union1d(database, unseen[1])
    lists = {
        "seen_in_seen": (query, database),
        "unseen_in_unseen": unseen,
        "unseen_in_both": (unseen[0], both),
        "seen_in_both": (query, both),
    }
    return {
        key: make_splits(
            source,
            train=train,
            validation=np.union1d(asking, also_asking),
            query=query,
            database=database,
            name=f"{name}_{key}".strip("_"),
            validation_searches=searched,
        )
        for key, (query, database) in lists.items()
    }
