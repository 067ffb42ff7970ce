"""Makes splits from a listing of photos, after checking that the photos exist."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax.data.class_counts import renumbered
from quantjax.data.list_files import Listing, read_lists
from quantjax.data.photo_files import are_there, existing_folder
from quantjax.data.photos import Photos, check_headers
from quantjax.data.protocols import Splits, make_splits
from quantjax.errors import InputError, MissingFileError

_FEW = 3  # names that an error shows


class Counts(NamedTuple):
    """Holds the numbers of photos and classes of a complete copy; None is not checked.

    Attributes:
      photos: Number of photos in any list.
      classes: Number of label columns, or of class ids.
      query: Number of queries, which are drawn if nobody has published them.
      train: Number of training photos, including validation photos; drawn likewise.
      database: Number of database photos.
    """

    photos: int | None
    classes: int | None
    query: int
    train: int
    database: int | None


def file_lists(
    root: str | Path,
    *,
    train: str | Path,
    query: str | Path,
    database: str | Path,
    validation: str | Path | None = None,
    num_validation: int = 0,
    seed: int = 0,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    place: Callable[[str], str] = str,
    allow_query_overlap: bool = False,
    allow_incomplete: bool = False,
    name: str = "file_lists",
) -> Splits:
    """Makes splits of photos from list files in the format of HashNet and DeepHash.

    A photo is one row, even if it is in several lists, so overlaps show as equal rows. Rows are
    sorted by path; the digest depends neither on the order of lines nor on that of lists. See
    `read_lists` for the format.

    Args:
      root: Folder that paths are relative to.
      train: List of the photos that train.
      query: List of the photos that search; the field calls it test.
      database: List of the photos that are searched.
      validation: List of the photos on which choices are made. None draws `num_validation` photos
        of train at random, which then validate instead of training.
      num_validation: Size of that draw; 0 leaves validation empty.
      seed: Seed of that draw: the first rows of a permutation of train by
        `numpy.random.default_rng(seed)`.
      size: Height and width in pixels, see `image_folder`; None takes photos of one size as they
        are.
      classes: Names of the L classes; "0", "1", ... where absent. With class ids L is the largest
        id + 1, or the number of names; ids with wide gaps are renumbered, see `from_arrays`.
      place: Listed path -> path relative to root, such as `by_name(root)`, for lists of
        another machine.
      allow_query_overlap: Whether queries may be in another list, to reproduce papers that have
        such queries; a query then finds itself.
      allow_incomplete: Whether to leave missing photos out of the lists instead of raising an
        error. The name gets "incomplete" and the digest changes.
      name: Name of the protocol, for results.

    Returns:
      Splits of a `Photos` source, whose labels are [N, L], or class ids [N] if the lists hold
      class ids.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if root, a list or a photo is missing.
      ValueError: if a list is wrong (see `read_lists`), lists share photos that they may not,
        classes do not fit the labels, or, without a size, sizes are mixed.
    """
    root = existing_folder(root)
    files = {"train": train, "query": query, "database": database}
    if validation is not None:
        files["validation"] = validation
        # Neither may silently win over the other.
        if num_validation:
            raise InputError(
                f"validation is listed in {validation}, num_validation must be 0, got "
                f"{num_validation}"
            )
    listing = read_lists(files, place=place)
    options = Options(size, num_validation, seed, allow_incomplete)
    return _splits_of(
        name, listing, root, options, classes=classes, allow_query_overlap=allow_query_overlap
    )


class Options(NamedTuple):
    """Holds the arguments that the functions of all named protocols share; see `file_lists`."""

    size: int | None
    num_validation: int
    seed: int
    allow_incomplete: bool


def copy_of(
    name: str,
    listing: Listing,
    root: Path,
    counts: Counts,
    options: Options,
    *,
    classes: Sequence[str] | None = None,
) -> Splits:
    """Makes the splits of a named protocol from a user's copy, after checking counts and photos.

    Args:
      name: Name of the protocol; it gets "incomplete" if counts differ or photos are missing.
      listing: Photos of the copy, and their labels and lists.
      root: Folder that the listing's paths are relative to.
      counts: Numbers of a complete copy.
      options: Arguments of the user.
      classes: Names of the L classes, see `file_lists`.

    Raises:
      FileNotFoundError: if photos are missing, unless the options allow it.
      ValueError: if counts differ, unless the options allow it; see also `file_lists`.
    """
    # Before photos are looked for: a wrong list would show as thousands of missing photos.
    wrong = [
        f"{due:,} {of}, got {came:,}"
        for of, due, came in zip(Counts._fields, counts, _counts(listing), strict=True)
        if due not in (None, came)
    ]
    if wrong and not options.allow_incomplete:
        raise InputError(
            f"{name} must have {'; '.join(wrong)}. This copy is not whole, or another split: get "
            "the rest, or pass allow_incomplete=True to go on with it, under another name and "
            "digest: such numbers compare with no one else's"
        )
    name = _incomplete(name) if wrong else name
    return _splits_of(name, listing, root, options, classes=classes)


def _counts(listing: Listing) -> Counts:
    labels, rows = listing.labels, listing.rows
    num_classes = labels.shape[1] if labels.ndim == 2 else len(np.unique(labels))
    train = sum(len(rows.get(part, ())) for part in ("train", "validation", "validation_searches"))
    return Counts(len(listing.paths), num_classes, len(rows["query"]), train, len(rows["database"]))


def _with_validation(listing: Listing, num_validation: int, seed: int) -> Listing:
    """Draws validation rows from a listing's training rows, unless it has a validation list.

    Raises:
      ValueError: if num_validation is not smaller than the number of training rows.
    """
    if "validation" in listing.rows:
        return listing
    train = listing.rows["train"]
    if not 0 <= num_validation < len(train):
        raise InputError(
            "num_validation is a part of train and must be smaller, got "
            f"{num_validation} of {len(train)}"
        )
    order = np.random.default_rng(seed).permutation(train)
    validation, train = np.sort(order[:num_validation]), np.sort(order[num_validation:])
    return listing._replace(rows={**listing.rows, "validation": validation, "train": train})


def _splits_of(
    name: str,
    listing: Listing,
    root: Path,
    options: Options,
    *,
    classes: Sequence[str] | None,
    allow_query_overlap: bool = False,
) -> Splits:
    """Makes splits of a listing after checking that its photos exist; see `file_lists`."""
    listing = _with_validation(listing, options.num_validation, options.seed)
    labels, names = _with_classes(listing.labels, classes)
    there = are_there(root, listing.paths)
    rows = listing.rows
    if not there.all():
        if not options.allow_incomplete:
            raise MissingFileError(_missing(name, root, listing.paths, there))
        rows = {key: each[there[each]] for key, each in rows.items()}
        name = _incomplete(name)
    # Missing photos stay in the source, so that row numbers do not depend on them.
    paths = tuple(root / path for path in listing.paths)
    check_headers([paths[row] for row in np.flatnonzero(there)], options.size)
    source = Photos(paths, labels, names, options.size)
    return make_splits(source, **rows, allow_query_overlap=allow_query_overlap, name=name)


def _incomplete(name: str) -> str:
    # Once, although both counts and photos may be missing.
    return f"{name.removesuffix(' incomplete')} incomplete"


def _with_classes(
    labels: np.ndarray, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels and class names; raises ValueError if their numbers differ."""
    several = labels.ndim == 2
    if classes is None:
        return (labels, tuple(map(str, range(labels.shape[1])))) if several else renumbered(labels)
    due = labels.shape[1] if several else int(labels.max()) + 1
    if len(classes) < due or (several and len(classes) > due):
        raise InputError(f"classes must hold {due} names, as the lists have, got {len(classes)}")
    return labels, tuple(classes)


def _missing(name: str, root: Path, paths: Sequence[str], there: np.ndarray) -> str:
    absent = np.flatnonzero(~there)
    shown = ", ".join(paths[row][:200] for row in absent[:_FEW])
    return (
        f"{name}: {absent.size:,} of {len(paths):,} photos are missing in {root}, such as {shown}; "
        "get them, or pass allow_incomplete=True to go on without them, under another name and "
        "digest: such numbers compare with no one else's"
    )
