"""Checks that a user's copy of a benchmark data set is complete, and makes its splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax.data.list_format import Listing, read_lists
from quantjax.data.listed_paths import by_name
from quantjax.data.lists import carved, incomplete, splits_of
from quantjax.data.protocols import Splits
from quantjax.errors import InputError, MissingFileError


class Counts(NamedTuple):
    """Holds the numbers of photos and classes of a complete copy; None is not checked.

    Attributes:
      photos: Number of photos in any list.
      classes: Number of label columns, or of class ids.
      query: Number of queries.
      train: Number of training photos, including validation photos.
      database: Number of database photos.
    """

    photos: int | None
    classes: int | None
    query: int | None
    train: int | None
    database: int | None


def first_of(folder: Path, names: Sequence[str], what: str) -> Path:
    """Returns the first existing path among some names of files or folders.

    Raises:
      FileNotFoundError: if no path exists; the message names the searched places.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise MissingFileError(f"{folder} has no {what}, looked for: {', '.join(names)}")


def from_lists(folder: Path) -> Listing | None:
    """Reads train.txt, test.txt (or query.txt) and database.txt, or returns None without them.

    Photos are found by file name, anywhere below the folder, since published lists hold paths of
    another machine.

    Raises:
      FileNotFoundError: if one or two of the three are missing.
      ValueError: if a list is wrong, see `read_lists`.
    """
    # Published lists call the queries test.txt; query.txt wins if both exist.
    query = folder / "query.txt"
    files = {
        "train": folder / "train.txt",
        "query": query if query.is_file() else folder / "test.txt",
        "database": folder / "database.txt",
    }
    missing = [file.name for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return None
    if missing:
        raise MissingFileError(
            f"{folder} lacks {' and '.join(missing)}; train.txt, test.txt and database.txt belong "
            "together"
        )
    return read_lists(files, place=by_name(folder))


def needs_lists(folder: Path, name: str) -> Listing:
    """Reads the list files of a split that only they define; raises an error without them.

    Raises:
      FileNotFoundError: if the list files are missing.
      ValueError: if a list is wrong, see `read_lists`.
    """
    listing = from_lists(folder)
    if listing is None:
        raise MissingFileError(
            f"{name} is defined by the list files train.txt, test.txt and database.txt of HashNet "
            f"(github.com/thuml/HashNet), which {folder} lacks; put them there"
        )
    return listing


def copy_of(
    listing: Listing,
    root: Path,
    *,
    name: str,
    counts: Counts,
    classes: Sequence[str] | None = None,
    size: int | None,
    num_validation: int,
    seed: int,
    allow_incomplete: bool,
) -> Splits:
    """Makes the splits of a named protocol after checking counts and photos.

    Raises:
      FileNotFoundError: if photos are missing and `allow_incomplete` is False.
      ValueError: if counts differ and `allow_incomplete` is False; see also `splits_of`.
    """
    came = _counts(listing)
    wrong = [
        f"{number:,} {what}, got {came_number:,}"
        for what, number, came_number in zip(Counts._fields, counts, came, strict=True)
        if number not in (None, came_number)
    ]
    if wrong and not allow_incomplete:
        raise InputError(
            f"{name} must have {'; '.join(wrong)}. This copy is not whole, or another split: get "
            "the rest, or pass allow_incomplete=True to go on with it, under another name and "
            "digest: such numbers compare with no one else's"
        )
    return splits_of(
        carved(listing, num_validation, seed),
        root,
        size=size,
        classes=classes,
        allow_incomplete=allow_incomplete,
        name=incomplete(name) if wrong else name,
    )


def _counts(listing: Listing) -> Counts:
    labels, rows = listing.labels, listing.rows
    num_classes = labels.shape[1] if labels.ndim == 2 else len(np.unique(labels))
    train = sum(len(rows.get(part, ())) for part in ("train", "validation", "validation_searches"))
    return Counts(len(listing.paths), num_classes, len(rows["query"]), train, len(rows["database"]))
