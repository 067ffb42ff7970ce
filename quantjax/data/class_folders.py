"""Lists a folder that has one folder per class: photos by class, and ignored files by kind."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from quantjax.data.listed_paths import walk
from quantjax.data.photo_formats import HEIC_ADVICE, HEIC_SUFFIXES, readable_suffixes
from quantjax.errors import InputError, MissingFileError

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
    for name, is_file in walk(class_folder):
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
    below = {p.parent: f for f, paths in photos.items() for p in paths if p.parent != f}
    count = sum(p.parent in below for paths in photos.values() for p in paths)
    notes = [f"ignored: {_counted(root, ignored)}"] if ignored else []
    if below:
        notes.append(f"{count} in sub-folders ({_shown(root, list(below))})")
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
    return few([os.path.relpath(path, root) for path in paths[: number + 1]], number)


def few(names: Sequence[str], number: int = _FEW) -> str:
    """Joins the first few names with commas, and ends with dots if names are left out."""
    return ", ".join((*names[:number], "...") if len(names) > number else names)
