"""Converts the ids and class names of items to the forms that engines store."""

import pathlib

import numpy as np

from quantjax.errors import InputError
from quantjax.index.artefact import Index
from quantjax.run import files


def class_names(index: Index) -> list[str | None] | None:
    """Returns the class name of each item, None for an item without a class.

    Args:
      index: Codes, perhaps with labels.

    Returns:
      Names [N], or None if the index has no labels.
    """
    if index.labels is None:
        return None
    names = [*index.manifest.get("classes", ()), None]  # label -1, unknown, picks the last
    return [names[label] for label in index.labels]


def has_names(index: Index) -> bool:
    """Returns whether the ids are names, and not whole numbers.

    Args:
      index: Codes with ids.
    """
    return index.ids.dtype == object


def check_names(index: Index) -> None:
    """Raises ValueError if an id is a name that UTF-8 cannot store on one line.

    Args:
      index: Codes with ids.
    """
    for row, name in enumerate(index.ids if has_names(index) else ()):
        # Python reads file names that are not UTF-8 as lone surrogates, which no engine takes.
        if len(name.splitlines()) > 1 or name.endswith("\n") or not _is_utf8(name):
            raise InputError(
                f"ids must be lines of UTF-8 for an export, got {name!r:.60} in row {row}; rename "
                "that file and encode it again, or export to npz"
            )


def row_numbered(index: Index) -> Index:
    """Replaces names by row numbers, for an engine whose ids are whole numbers.

    Args:
      index: Codes with ids.
    """
    return index._replace(ids=np.arange(len(index.ids))) if has_names(index) else index


def write_names(index: Index, path: pathlib.Path) -> list[pathlib.Path]:
    """Writes names as ids to `<file>.ids.txt`, one a line, in the order of row numbers.

    Args:
      index: Codes with ids; nothing is written if they are whole numbers.
      path: Engine's file.

    Returns:
      Path of the names, or nothing.
    """
    if not has_names(index):
        return []
    names = path.with_name(path.name + ".ids.txt")
    files.write_text(names, "\n".join(index.ids) + "\n")
    return [names]


def _is_utf8(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
