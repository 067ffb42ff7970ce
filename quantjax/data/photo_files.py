"""Finds photo files below a folder: by class folder, by name, or by listed path."""

import errno
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax.data.decoding import HEIC_ADVICE, HEIC_SUFFIXES, SUFFIXES, readable_suffixes
from quantjax.errors import InputError, MissingFileError
from quantjax.run.paths import user_path

# No such file, a file for a folder, a name too long for the disk, a link to itself.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_PARTS = (
    *("train", "training", "validation", "valid", "val", "dev", "test", "testing"),
    *("query", "queries", "gallery", "database"),
)
_FEW = 3  # names that a note shows
_KINDS = 12  # kinds of files that a note counts


class ClassFolders(NamedTuple):
    """Lists the files of a folder with one folder per class; made by `read_class_folders`.

    Attributes:
      photos: Class folder -> photos in it, sorted by path.
      ignored: Kind, such as ".heic" or "hidden", -> files and folders that are not read.
    """

    photos: dict[Path, list[Path]]
    ignored: dict[str, list[Path]]


def existing_folder(folder: str | Path) -> Path:
    """Returns the path of a folder, "~" expanded, and checks that it exists.

    Raises:
      FileNotFoundError: if the folder does not exist.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; name the one that holds the photos")
    return folder


def first_of(folder: Path, names: Sequence[str], what: str) -> Path:
    """Returns the first existing path among some names of files or folders.

    Raises:
      FileNotFoundError: if no path exists; the message names the searched places.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise MissingFileError(f"{folder} has no {what}, looked for: {', '.join(names)}")


def are_there(root: Path, paths: Sequence[str]) -> np.ndarray:
    """Returns whether each path below root is an existing file, [N] bool; lists a folder once."""
    # A listing answers for all photos of a folder; a request for each takes minutes over a network.
    names: dict[str, frozenset[str]] = {}
    mask = np.zeros(len(paths), bool)
    for row, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if folder not in names:
            names[folder] = _file_names(root / folder)
        mask[row] = name in names[folder]
    return mask


def _file_names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _holds(entry.is_file))
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return frozenset()


def _holds(is_kind: Callable[[], bool]) -> bool:
    try:
        return is_kind()
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return False


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
    # Built once: to look for each of 200,000 listed photos would walk the folder as often.
    found: dict[str, list[str]] = defaultdict(list)
    for path, is_file in _walk(root):
        if is_file and path.lower().endswith(SUFFIXES):
            found[path.rpartition("/")[2]].append(path)

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


def _walk(root: Path) -> Iterator[tuple[str, bool]]:
    """Yields all files below a root folder, at any depth.

    Links are followed without cycles: a folder is entered once, and yielded as a path when it is
    met again. Hidden folders are yielded but not entered. `os.walk` would follow a cycle of links.

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


def read_class_folders(folder: Path) -> ClassFolders:
    """Lists the photos and ignored files of a folder; sub-folders of a class belong to the class.

    Args:
      folder: Folder with one folder per class.

    Raises:
      FileNotFoundError: if the folder does not exist.
      ValueError: if its folders are parts, such as train and test, that hold the class folders.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; name one that has a folder for each class")
    found = ClassFolders({}, defaultdict(list))
    for entry in sorted(folder.iterdir()):
        if entry.name[0] == ".":
            found.ignored["hidden"].append(entry)
        elif entry.is_dir():
            found.photos[entry] = sorted(_photos(entry, found))
        else:
            found.ignored["beside the class folders"].append(entry)
    _check_no_parts(folder, found.photos)
    return found


def _photos(class_folder: Path, found: ClassFolders) -> Iterator[Path]:
    """Yields a class's photos, dangling links included; adds other files to `found.ignored`."""
    suffixes = readable_suffixes()
    for name, is_file in _walk(class_folder):
        path = class_folder / name
        suffix = path.suffix.lower()
        if path.name[0] == ".":
            found.ignored["hidden"].append(path)
        elif not is_file and path.is_dir():
            found.ignored["folders met a second time through a link"].append(path)
        elif suffix in suffixes:
            yield path
        else:
            found.ignored[suffix or "without a suffix"].append(path)


def photos_below(root: Path) -> tuple[list[str], list[str]]:
    """Lists the photos at any depth below a folder, with or without class folders.

    Args:
      root: Folder of photos.

    Returns:
      Paths of the photos below the root, sorted; and notes on ignored files.

    Raises:
      FileNotFoundError: if the folder does not exist.
    """
    found = ClassFolders({}, defaultdict(list))
    root = existing_folder(root)
    names = sorted(path.relative_to(root).as_posix() for path in _photos(root, found))
    return names, notes_of(root, [found])


def classes_of(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the classes of photos by their folders, as `read_class_folders` sees them.

    The class is the first folder of a path, or the second where the first folders are parts, such
    as train and test.

    Args:
      names: N paths of photos, relative to the folder of all.

    Returns:
      Names of the classes, sorted; and class numbers [N] int64, -1 for photos in no class folder.
    """
    tops = {name.partition("/")[0] for name in names if "/" in name}
    depth = int(len(tops) > 1 and all(top.lower() in _PARTS for top in tops))
    folders = [[*name.split("/")[depth:-1], ""][0] for name in names]
    classes = sorted({*folders} - {""})
    number_of = {name: number for number, name in enumerate(classes)}
    return classes, np.array([number_of.get(folder, -1) for folder in folders], np.int64)


def _check_no_parts(folder: Path, photos: Mapping[Path, Sequence[Path]]) -> None:
    """Raises ValueError if several folders look like parts of a split, not like classes.

    Such folders have names like "train" and hold photos in sub-folders only. As classes they would
    train a network to tell training photos from test photos.
    """
    names = [
        each.name
        for each, paths in photos.items()
        if each.name.lower() in _PARTS and paths and _are_below_sub_folders(each, paths)
    ]
    # A single such name may well be a class.
    if len(names) > 1:
        names.sort(key=lambda name: _PARTS.index(name.lower()))
        raise InputError(
            f"{folder} is split already, {', '.join(names)} have a folder for each class: pass "
            f"--parts={','.join(names)} (in Python data.image_folders), or rename them if they are "
            "classes"
        )


def _are_below_sub_folders(folder: Path, paths: Sequence[Path]) -> bool:
    return all(path.parent != folder for path in paths)


def notes_of(root: Path, found: Sequence[ClassFolders]) -> list[str]:
    """Returns notes for the user: ignored files, sub-folders, empty classes, similar names.

    Args:
      root: Folder that paths are shown relative to.
      found: Listing of each part, or of the only folder.
    """
    photos: dict[Path, list[Path]] = {}
    ignored: dict[str, list[Path]] = defaultdict(list)
    for each in found:
        photos |= each.photos
        for kind, paths in each.ignored.items():
            ignored[kind] += paths
    classes = sorted({folder.name for folder, paths in photos.items() if paths})
    # If another part has the class, `absent_classes` already notes that this part lacks it.
    empty = [folder for folder in photos if folder.name not in classes]
    below = [p.parent for f, paths in photos.items() for p in paths if p.parent != f]
    notes = [f"ignored: {_counted(root, ignored)}"] if ignored else []
    if below:
        notes.append(f"{len(below)} in sub-folders ({_shown(root, list(dict.fromkeys(below)))})")
    if empty:
        notes.append(f"class folders without a photo: {_shown(root, empty)}")
    notes += _alike(classes)
    if len(classes) == 1 and all(_are_below_sub_folders(*each) for each in photos.items()):
        notes.append(f"{classes[0]} is the only class; if its folders are the classes, name it")
    return notes


def _counted(root: Path, ignored: Mapping[str, Sequence[Path]]) -> str:
    kinds = sorted(ignored, key=lambda kind: (-len(ignored[kind]), kind))
    told = []
    for kind in kinds[:_KINDS]:
        advice = f"; {HEIC_ADVICE}" if kind in HEIC_SUFFIXES else ""
        told.append(f"{len(ignored[kind])} {kind} ({_shown(root, ignored[kind], 1)}{advice})")
    if others := kinds[_KINDS:]:
        told.append(f"{sum(len(ignored[kind]) for kind in others)} of {len(others)} more kinds")
    return ", ".join(told)


def _alike(classes: Sequence[str]) -> list[str]:
    """Returns a note on each group of classes whose names look alike, such as "cat" and "Cat"."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    return [
        f"{' and '.join(map(repr, names))} are {len(names)} classes, though they look alike"
        for names in groups.values()
        if len(names) > 1
    ]


def _shown(root: Path, paths: Sequence[Path], number: int = _FEW) -> str:
    return dotted([os.path.relpath(path, root) for path in paths[: number + 1]], number)


def dotted(names: Sequence[str], number: int = _FEW) -> str:
    """Joins the first few names with commas, and ends with dots if names are left out."""
    return ", ".join((*names[:number], "...") if len(names) > number else names)
