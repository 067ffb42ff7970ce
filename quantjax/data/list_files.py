"""Reads the list files of HashNet and DeepHash: each line has a photo's path and its labels.

images/27863.jpg 0 0 1 0 1        multi-hot, a column for each class
img/7/a.jpg 7                     or the class id
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax.data.decoding import SUFFIXES
from quantjax.errors import InputError, MissingFileError
from quantjax.run.paths import user_path

_SUFFIX = "|".join(suffix[1:] for suffix in SUFFIXES)
# Greedy: the path ends at the last photo suffix that only whole numbers follow.
_LINE = re.compile(rf"(.*\.(?:{_SUFFIX}))((?:\s+[0-9]{{1,6}})+)", re.IGNORECASE)
_ABSOLUTE = re.compile(r"/|[A-Za-z]:")


class Listing(NamedTuple):
    """Lists photos and labels from list files, each photo once.

    Attributes:
      paths: Row i is the photo `paths[i]`, below a root.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64.
      rows: Sorted rows of each list, by the list's name.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    rows: dict[str, np.ndarray]


class _Line(NamedTuple):
    """Describes one line of a list file: a photo and its labels, still as text."""

    file: Path
    number: int
    path: str
    labels: str

    def __str__(self) -> str:
        return f"{self.file} line {self.number}"


def read_lists(files: Mapping[str, str | Path], *, place: Callable[[str], str] = str) -> Listing:
    """Reads photos and labels from list files, sorted by path, without opening a photo.

    A path may hold spaces: it ends at the last photo suffix, and whole numbers follow. Blank lines
    are skipped. Text is UTF-8, with or without a byte order mark; other bytes are kept as the file
    system has them.

    Args:
      files: List files by name.
      place: Listed path -> path below the root.

    Raises:
      FileNotFoundError: if a list file is missing.
      ValueError: with file and line, if a line is not a photo with labels, a path is absolute or
        leaves the root, labels are not zeros and ones or a class id, the number of labels changes,
        a photo is twice in a list or has other labels in another list; or if a list is empty.
    """
    first: dict[str, _Line] = {}  # first line of each photo
    listed: dict[str, dict[str, _Line]] = {}
    labels: dict[str, tuple[int, ...]] = {}
    first_line: _Line | None = None
    for name, file in files.items():
        in_list = listed[name] = {}
        for line in _lines(user_path(file), place):
            # Most lines repeat the labels of another line, whose text then need not be parsed.
            if line.labels not in labels:
                first_line = first_line or line
                labels[line.labels] = _label(line, first_line)
            if line.path in in_list:
                other = in_list[line.path].number
                raise InputError(f"{line}: photo {line.path} stands in line {other} already")
            same = first.setdefault(line.path, line)
            if labels[same.labels] != labels[line.labels]:
                raise InputError(f"{line}: photo {line.path} has other labels in {same}")
            in_list[line.path] = line
        if not in_list:
            raise InputError(f"{file} lists no photo")
    # By path, so that row numbers, and with them the digest, depend on no order of lines.
    paths = sorted(first)
    row_of = {path: row for row, path in enumerate(paths)}
    return Listing(
        tuple(paths),
        _table(labels, [first[path].labels for path in paths]),
        {name: np.sort([row_of[path] for path in in_list]) for name, in_list in listed.items()},
    )


def below_root(path: str, *, at: object, place: Callable[[str], str] = str) -> str:
    r"""Normalizes a listed path to a path relative to the root, so that equal photos compare equal.

    "\" counts as "/", since lists made on Windows use it; "." and ".." are resolved as text. The
    file system is not read: a symbolic link below the root may lead out of it, and two links to one
    file are two photos.

    Args:
      path: Path as listed.
      at: File and line of the path, for errors.
      place: Listed path -> path below the root.

    Raises:
      ValueError: if the path is absolute or leaves the root, or if `place` raises it.
    """
    try:
        return _normalized(place(path))
    except ValueError as error:
        raise InputError(f"{at}: {error}") from error


def _normalized(path: str) -> str:
    inside = path.replace("\\", "/")
    if _ABSOLUTE.match(inside):
        raise InputError(
            f"path {path[:200]!r} is absolute, paths must be relative to the root; pass place= to "
            "map them, such as data.by_name(root)"
        )
    # Few of the 200,000 lines of a list need to be normalized, which is slow.
    if "/." in inside or "//" in inside or inside[:1] == ".":
        inside = posixpath.normpath(inside)
    if inside == ".." or inside.startswith("../") or _ABSOLUTE.match(inside) or "\0" in inside:
        raise InputError(f"path {path[:200]!r} leaves the root; name photos below it")
    return inside


def _lines(file: Path, place: Callable[[str], str]) -> Iterator[_Line]:
    if not file.is_file():
        raise MissingFileError(f"no list file {file}")
    # surrogateescape, as in Python's file names, so that bytes outside of UTF-8 find their photo.
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if not (text := line.strip()):
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                shown = text if len(text) <= 80 else f"{text[:60]} ... {text[-16:]}"
                raise InputError(
                    f"{file} line {number}: must be a path that ends in .jpg or another photo "
                    "suffix, then labels of 0 and 1 or a class id below 1,000,000, with spaces "
                    f"between; got {shown!r}"
                )
            path = below_root(match[1], at=f"{file} line {number}", place=place)
            yield _Line(file, number, path, match[2])


def _label(line: _Line, first: _Line) -> tuple[int, ...]:
    values, width = tuple(map(int, line.labels.split())), len(first.labels.split())
    if len(values) != width:
        raise InputError(f"{line}: {len(values)} labels, but {width} in {first}")
    if width > 1 and max(values) > 1:
        raise InputError(f"{line}: labels of several columns must be 0 or 1, got {max(values)}")
    return values


def _table(labels: dict[str, tuple[int, ...]], texts: list[str]) -> np.ndarray:
    """Returns the labels of all rows; each distinct text was parsed only once."""
    row_of = {text: row for row, text in enumerate(labels)}
    table = np.array(list(labels.values()))
    table = table[:, 0].astype(np.int64) if table.shape[1] == 1 else table.astype(np.uint8)
    return table[[row_of[text] for text in texts]]
