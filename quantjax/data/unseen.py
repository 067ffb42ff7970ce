"""Splits a data set by class, so that queries and database show classes unseen in training."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from quantjax.data.class_counts import num_labels, num_labels_among, rows_per_class
from quantjax.data.protocols import Splits, make_splits
from quantjax.data.sources import Source
from quantjax.errors import InputError


def unseen_classes(
    source: Source,
    *,
    seen_share: float = 0.75,
    validation_share: float = 0.25,
    query_per_class: int = 100,
    seed: int = 0,
) -> Splits:
    """Makes splits that train on some classes and retrieve images of the other classes.

    Classes are drawn, not images. A row belongs to a part if all its labels do; rows without labels
    and rows whose labels belong to several parts are left out. If the database held images of the
    training classes, a classifier's answer written as a code would beat hashing; here it cannot.

    Validation repeats the task inside the seen classes: some seen classes are held out of training,
    and a few of their rows search all their other rows (`Splits.validation_searches`). So
    hyper-parameters are chosen on classes without training rows, yet not on the unseen classes.
    `final` then trains on all seen classes. Held-out images of training classes would measure a
    different task.

    Args:
      source: Images of any number of labels.
      seen_share: Share of the classes that are seen, rounded down to whole classes.
      validation_share: Share of the seen classes that validate, rounded down, but at least two
        classes; 0 for no validation.
      query_per_class: Number of rows of every unseen and every validation class that are queries;
        the other rows are searched.
      seed: Seed of the draw. The unseen classes and their queries do not depend on
        validation_share.

    Raises:
      ValueError: if train, validation or the unseen part has fewer than two classes, or a class has
        no image left to be searched.

    Reference:
      Sablayrolles et al., How Should We Evaluate Supervised Hashing?, ICASSP 2017, arXiv
      1609.06753 (75 % of the classes; sizes and validation are ours).
    """
    if not source.classes:
        raise InputError("classes are drawn by labels, but the source has no labels")
    if query_per_class < 1:
        raise InputError(f"query_per_class must be 1 or more, got {query_per_class}")
    num_seen, num_validation = _num_classes(len(source.classes), seen_share, validation_share)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source.classes))
    train, validation, unseen = np.split(order, [num_seen - num_validation, num_seen])
    # The unseen part draws first, so that it does not depend on the validation share.
    sizes = (query_per_class, None)
    query, database = draw(source, unseen, sizes, rng.permutation)
    held, searched = draw(source, validation, sizes, rng.permutation)
    return make_splits(
        source,
        train=_rows_of(source, train),
        validation=held,
        query=query,
        database=database,
        name="unseen_classes",
        validation_searches=searched if num_validation else None,
    )


def cifar10_unseen(source: Source, *, seed: int = 0) -> Splits:
    """Splits CIFAR-10 by class: trains on 5 classes and retrieves images of 3 unseen classes.

    The 5 classes have 30,000 training rows, the 3 unseen classes 3,000 query and 15,000 database
    rows. Of the 2 other classes 2,000 rows are validation queries and search 10,000. Official
    training and test images are treated alike.

    Raises:
      ValueError: if the source is not 6,000 images of each of 10 classes.
    """
    if rows_per_class(source.labels, len(source.classes)).tolist() != [6_000] * 10:
        raise InputError(
            "this protocol is of the 6000 images of each of 10 classes that data.cifar10() reads, "
            f"got {len(source)} images of {len(source.classes)} classes"
        )
    splits = unseen_classes(source, query_per_class=1_000, seed=seed)
    return splits._replace(name="cifar10_unseen")


def _num_classes(num_classes: int, seen_share: float, validation_share: float) -> tuple[int, int]:
    """Returns the number of seen classes, and the number of seen classes that validate."""
    if not 0 < seen_share < 1 or not 0 <= validation_share < 1:
        raise InputError(
            "seen_share must be between 0 and 1, and validation_share 0 or more and below 1, got "
            f"{seen_share} and {validation_share}"
        )
    # A share such as 0.29 of 100 is a hair below the whole number it means.
    num_seen = math.floor(seen_share * num_classes + 1e-9)
    num_validation = max(2, math.floor(validation_share * num_seen + 1e-9)) * (validation_share > 0)
    # Two classes at least, or every item would be relevant to every query.
    sizes = {
        "train": num_seen - num_validation,
        "validation": num_validation or 2,
        "unseen": num_classes - num_seen,
    }
    if min(sizes.values()) < 2:
        raise InputError(
            "train, validation and the unseen part must have 2 classes or more each, got "
            + ", ".join(f"{size} {name}" for name, size in sizes.items())
            + f" of {num_classes} classes; change seen_share or validation_share"
        )
    return num_seen, num_validation


def _rows_of(source: Source, class_ids: np.ndarray) -> np.ndarray:
    """Returns the rows that have labels and whose labels all belong to the given classes."""
    # A row that also has a label of another part would show that part's class.
    inside = num_labels_among(source.labels, _chosen(source, class_ids))
    return np.flatnonzero((inside > 0) & (inside == num_labels(source.labels)))


def _chosen(source: Source, class_ids: np.ndarray) -> np.ndarray:
    return np.isin(np.arange(len(source.classes)), class_ids)


def draw(
    source: Source,
    class_ids: np.ndarray,
    sizes: Sequence[int | None],
    order: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Draws the given numbers of rows of every given class into lists that share no row.

    Args:
      source: Images of any number of labels.
      class_ids: Classes; rows that also have a label of another class are left out.
      sizes: Rows of a class in each list; a last None is a list of all other rows.
      order: Orders the rows of a class before they are dealt to the lists in turn.

    Returns:
      Sorted rows of each list.

    Raises:
      ValueError: if a class has too few rows.
    """
    rows = _rows_of(source, class_ids)
    counts = [size for size in sizes if size is not None]
    due = sum(counts) + (None in sizes)  # the last list needs a row of every class, too
    labels, part = source.labels[rows], np.full(len(rows), len(counts))
    for class_id in class_ids:
        of_class = num_labels_among(labels, _chosen(source, class_id)) > 0
        # A multi-label row that another class drew already is not drawn a second time.
        free = np.flatnonzero(of_class & (part == len(counts)))
        if len(free) < due:
            raise InputError(
                f"class {source.classes[class_id]} must have {due} images or more to draw from, "
                f"got {len(free)}; ask for fewer images of a class"
            )
        for number, drawn in enumerate(np.split(order(free), np.cumsum(counts))[:-1]):
            part[drawn] = number
    return [rows[part == number] for number in range(len(sizes))]
