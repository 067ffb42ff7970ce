"""Finds listed photos below a root folder and checks that they exist."""

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from quantjax.data.photo_formats import SUFFIXES
from quantjax.errors import InputError, MissingFileError

_ABSOLUTE = re.compile(r"/|[A-Za-z]:")
# No such file, a file for a folder, a name too long for the disk, a link to itself.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def below_root(path: str) -> str:
    r"""Normalizes a listed path to a path relative to the root, so that equal photos compare equal.

    "\" counts as "/", since lists made on Windows use it; "." and ".." are resolved as text. The
    file system is not read: a symbolic link below the root may lead out of it, and two links to one
    file are two photos.

    Raises:
      ValueError: if the path is absolute or leaves the root.
    """
    inside = path.replace("\\", "/")
    if _ABSOLUTE.match(inside):
        raise InputError(
            f"path {path[:200]!r} is absolute, paths must be relative to the root; pass place= to "
            "map them, such as data.by_name(root)"
        )
    if "/." in inside or "//" in inside or inside[:1] == ".":
        inside = posixpath.normpath(inside)
    if inside == ".." or inside.startswith("../") or _ABSOLUTE.match(inside) or "\0" in inside:
        raise InputError(f"path {path[:200]!r} leaves the root; name photos below it")
    return inside


def _holds(is_kind: Callable[[], bool]) -> bool:
    try:
        return is_kind()
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return False


def walk(root: Path) -> Iterator[tuple[str, bool]]:
    """Yields all files below a root folder, at any depth.

    Links are followed without cycles: a folder is entered once, and yielded as a path when it is
    met again. Hidden folders are yielded but not entered.

    Args:
      root: Folder to start from.

    Yields:
      (path below root, whether it is an existing file): False for folders and dangling links.
    """
    # Device and inode identify a folder, whatever links lead to it.
    status = os.stat(root)
    folders, seen = [""], {(status.st_dev, status.st_ino)}
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not _holds(entry.is_dir):
                    yield path, _holds(entry.is_file)
                    continue
                status = entry.stat()
                place = (status.st_dev, status.st_ino)
                if entry.name[0] == "." or place in seen:
                    yield path, False
                    continue
                seen.add(place)
                folders.append(path)


def by_name(root: str | Path) -> Callable[[str], str]:
    """Returns a function that finds a listed photo by its file name, anywhere below a root.

    Use it as `place` of `file_lists`, for lists made on another machine or for photos in other
    folders. A path that exists below the root is kept.

    Args:
      root: Folder that is searched once, with all its folders except hidden folders.

    Returns:
      Listed path -> path below root, or the bare file name if no photo has that name. The function
      raises ValueError if several photos have the name.

    Raises:
      FileNotFoundError: if the root does not exist.
    """
    root = existing_folder(root)
    found: dict[str, list[str]] = {}
    for path, is_file in walk(root):
        if is_file and path.lower().endswith(SUFFIXES):
            found.setdefault(path.rpartition("/")[2], []).append(path)

    def place(listed: str) -> str:
        listed = listed.replace("\\", "/")
        name = listed.rpartition("/")[2]
        paths = found.get(name, [name])
        if len(paths) == 1:
            return paths[0]
        if (same := listed.removeprefix("./")) in paths:
            return same
        raise InputError(
            f"photo {name} lies {len(paths)} times below {root}, at {paths[0]} and {paths[1]}; "
            "take one away"
        )

    return place


def existing_folder(folder: str | Path) -> Path:
    """Returns the path of a folder, "~" expanded, and checks that it exists.

    Raises:
      FileNotFoundError: if the folder does not exist.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; name the one that holds the photos")
    return folder


def _file_names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _holds(entry.is_file))
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return frozenset()


def are_there(root: Path, paths: Sequence[str]) -> np.ndarray:
    """Returns whether each path below root is an existing file, [N] bool; lists a folder once."""
    names: dict[str, frozenset[str]] = {}
    mask = np.zeros(len(paths), bool)
    for row, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if folder not in names:
            names[folder] = _file_names(root / folder)
        mask[row] = name in names[folder]
    return mask
