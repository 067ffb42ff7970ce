"""Checks a split before training: overlapping lists, duplicate images and missing labels."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quantjax.data.class_counts import check_labels, num_labels, num_labels_among, rows_per_class
from quantjax.data.equal_images import examples, image_hashes, in_another_row, write_listing
from quantjax.data.protocols import LISTS, Splits
from quantjax.data.sources import Source, cut, row_name, row_names
from quantjax.errors import InputError
from quantjax.run import processes
from quantjax.run.paths import user_path

_APART = (
    ("query", "train"),
    ("query", "validation"),
    ("query", "database"),
    ("query", "validation_database"),
    ("validation", "train"),
    ("validation", "validation_database"),
)
# Some protocols let the database hold training rows, which makes the measured numbers higher.
_TOGETHER = (("train", "database"), ("validation", "database"))
_CLASSES = 20  # most absent classes that an audit names


class Audit(NamedTuple):
    """Holds the findings of `audit` as numbers and text; `_asdict()` is JSON and enters results.

    Keys are lists ("train", "validation", "query", "database") or pairs ("query in database").

    Attributes:
      name: `splits.name`.
      digest: `splits.digest`.
      label_shape: [N, L], rows and classes of the source, of whichever kind its labels are.
      rows: Length of each list.
      shared_rows: Rows of the pair's first list that are in its second; training and validation
        rows may be in the database, where a protocol says so.
      shared_images: Rows of the first list with the pixels of a row of the second that has another
        number; features where the source has no images, here and below.
      repeated_images: Rows of each list with the pixels of a row before them in that list.
      unlabelled: Rows of each list that have no label.
      labels_per_row: "min", "mean" and "max" number of labels of a row, for each list; 0 where the
        list is empty.
      absent_classes: Names of the classes that no row of train, of query, of database has: the
        first 20, then "and N more".
      zero_queries: Rows of "query" without a relevant item in the database, which no ranking can
        get right, and rows of "validation" without one in the validation database.
    """

    name: str
    digest: str
    label_shape: list[int]
    rows: dict[str, int]
    shared_rows: dict[str, int]
    shared_images: dict[str, int]
    repeated_images: dict[str, int]
    unlabelled: dict[str, int]
    labels_per_row: dict[str, dict[str, float]]
    absent_classes: dict[str, list[str]]
    zero_queries: dict[str, int]


def audit(
    splits: Splits,
    *,
    allow_query_overlap: bool = False,
    max_equal_images: float = 0.01,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
    listing: str | Path | None = None,
) -> Audit:
    """Counts overlaps, duplicates and missing labels; raises ValueError if a split leaks queries.

    Images are equal if their shapes and all decoded pixels are equal; photos that were scaled or
    compressed again are not found. Without images, features are compared byte for byte. Every image
    is read once, even if it is in several lists. With several processes, all must call this
    function, and each reads a part of the images.

    Args:
      splits: Splits for training and evaluation.
      allow_query_overlap: Whether to record query rows that are in another list instead of raising
        an error, to reproduce papers that have them; a query then finds itself.
      max_equal_images: Share of the queries that may have an equal image of another row number in
        train, in validation or in database; 1 refuses none. CIFAR-10 (JPEG) and Fashion-MNIST have
        no equal images at all, the lists of thulab/DeepHash#49 had 888 for 1,000 queries.
      batch_size: Images held in memory at once.
      progress: Called with the number of images hashed and of all to hash by this process, after
        each batch.
      listing: File for the names of all equal images, including allowed ones. It is written, or
        removed if no images are equal, before an error for equal images is raised.

    Returns:
      All counts.

    Raises:
      ValueError: if validation rows are in train, query rows are in another list without
        permission, or more queries have equal images than `max_equal_images` allows.
      OSError: if the listing cannot be written.

    Reference:
      Barz and Denzler, Do We Train on Test Data? Purging CIFAR of Near-Duplicates, Journal of
      Imaging 2020 (what exact equality misses: 3.3 % of CIFAR-10's test images).
    """
    lists = {name: getattr(splits, name) for name in (*LISTS, "validation_database")}
    if not 0 <= max_equal_images <= 1:
        raise InputError(f"max_equal_images must be a share from 0 to 1, got {max_equal_images}")
    apart = [*_APART]
    if splits.validation_searches is None:
        # Already covered: the validation database is then a part of the database.
        apart.remove(("query", "validation_database"))
    pairs = (*apart, *_TOGETHER)
    shared_rows = {(a, b): np.intersect1d(lists[a], lists[b]) for a, b in pairs}
    _check_rows(splits.source, shared_rows, lists, allow_query_overlap)
    # Lists overlap; every image is read and hashed only once.
    rows = np.unique(np.concatenate(list(lists.values())))
    hashed = functools.partial(
        image_hashes, splits.source, batch_size=batch_size, progress=progress
    )
    hashes = _shared_among_processes(hashed, rows)
    # Equal images get equal ids, so that comparing lists needs no hashes.
    image_ids = np.unique(hashes, axis=0, return_inverse=True)[1].reshape(-1)
    images = {name: image_ids[np.searchsorted(rows, listed)] for name, listed in lists.items()}
    shared = {(a, b): in_another_row(lists[a], lists[b], images[a], images[b]) for a, b in apart}
    if listing is not None:
        # Written before the check below, so that the user can look up the images it names.
        processes.from_first(
            lambda: write_listing(user_path(listing), splits.source, lists, rows, image_ids)
        )
    for (a, b), mask in shared.items():
        if a == "query" and mask.sum() > max_equal_images * len(mask):
            named = examples(splits.source, lists, images, mask, b)
            raise InputError(_refusal(named, mask, b, max_equal_images, listing))
    return Audit(
        name=splits.name,
        digest=splits.digest,
        label_shape=[len(splits.source), len(splits.source.classes)],
        rows={name: len(lists[name]) for name in LISTS},
        shared_rows={f"{a} in {b}": len(found) for (a, b), found in shared_rows.items()},
        shared_images={f"{a} in {b}": int(mask.sum()) for (a, b), mask in shared.items()},
        repeated_images={n: len(images[n]) - len(np.unique(images[n])) for n in LISTS},
        **_label_counts(splits.source, lists),
    )


def _shared_among_processes(hashed, rows):
    """Hashes a part of the images in each process, and joins the parts in every process."""
    if not processes.several():
        return hashed(rows)
    hashes, error = np.empty((0, 2), np.uint64), None
    try:
        hashes = hashed(rows[processes.share(len(rows))])
    except Exception as caught:  # raised below, after the waiting processes know of it
        error = caught
    failed = processes.all_agree(0 if error is None else processes.number() + 1)
    if error is not None:
        raise error
    if failed:
        raise InputError(f"process {failed - 1} cannot read an image; see what it says")
    return processes.join(hashes, len(rows))


def _check_rows(
    source: Source,
    shared: dict[tuple[str, str], np.ndarray],
    lists: dict[str, np.ndarray],
    allow_query_overlap: bool,
) -> None:
    advice = {"validation": "draw the lists anew"}
    if not allow_query_overlap:
        advice["query"] = (
            "draw the lists anew, or pass allow_query_overlap=True (--allow_query_overlap) to "
            "reproduce a paper whose queries are there"
        )
    # Training rows in the database are no mistake: many protocols search what they train on.
    for (first, second), rows in shared.items():
        if len(rows) and first in advice and (first, second) in _APART:
            raise InputError(
                f"{len(rows)} of {len(lists[first])} {first} rows are in {second} too, "
                f"such as {row_names(source, rows)}; {advice[first]}"
            )


def check_training_labels(splits: Splits) -> None:
    """Raises ValueError if a split's training labels give no positive or no negative pairs.

    A jitted step cannot read its labels, so an experiment calls this before it trains.

    Args:
      splits: Splits whose training rows are checked. Messages name rows by their files if the
        source has names.

    Raises:
      ValueError: if rows have no class (the first are named); if all rows share one class, so that
        there are no negatives; or if no two rows share a class, so that there are no positives.
    """
    source, rows = splits.source, splits.train
    check_labels(source.labels[rows], name_of=lambda row: row_name(source, rows[row]))


def label_notes(splits: Splits) -> list[str]:
    """Returns a line for each list with unlabelled rows, with their number and the first names.

    Args:
      splits: Splits whose train, validation, query and database are checked.
    """
    lines = []
    for name in LISTS:
        rows = getattr(splits, name)
        empty = rows[num_labels(splits.source.labels[rows]) == 0]
        if len(empty):
            lines.append(
                f"{len(empty)} of {len(rows)} {name} rows have no label: "
                f"{row_names(splits.source, empty)}"
            )
    return lines


def _refusal(
    examples: str, mask: np.ndarray, second: str, limit: float, listing: str | Path | None
) -> str:
    where = f"listed in {listing}" if listing else "listed where listing=FILE is passed"
    return (
        f"{mask.sum()} of {len(mask)} queries have an equal image of another row number in "
        f"{second}, such as {examples}; that is more than {limit:.3g} of them: all are {where}; "
        "take the duplicates out, or pass a larger max_equal_images (--max_equal_images=1 allows "
        "any number) to go on and record them"
    )


def _label_counts(source: Source, lists: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the fields of `Audit` that need only labels."""
    labels = source.labels
    per_row = num_labels(labels)
    # Classes of each list: a query whose classes the database lacks has no answer there.
    found = {
        name: rows_per_class(labels[rows], len(source.classes)) > 0 for name, rows in lists.items()
    }

    def spread(counts: np.ndarray) -> dict[str, float]:
        if not len(counts):
            return {"min": 0, "mean": 0.0, "max": 0}
        return {"min": int(counts.min()), "mean": float(counts.mean()), "max": int(counts.max())}

    def zero_queries(queries: str, database: str) -> int:
        return int((num_labels_among(labels[lists[queries]], found[database]) == 0).sum())

    return {
        "unlabelled": {name: int((per_row[lists[name]] == 0).sum()) for name in LISTS},
        "labels_per_row": {name: spread(per_row[lists[name]]) for name in LISTS},
        "absent_classes": {
            name: cut([source.classes[each] for each in np.flatnonzero(~found[name])], _CLASSES)
            for name in ("train", "query", "database")
        },
        "zero_queries": {
            "query": zero_queries("query", "database"),
            "validation": zero_queries("validation", "validation_database"),
        },
    }
