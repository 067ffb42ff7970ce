"""Reads photos from a folder that has one folder per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quantjax.data.class_counts import rows_per_class
from quantjax.data.class_folders import ClassFolders, few, notes_of, read_class_folders
from quantjax.data.photo_errors import UnreadablePhotoError, all_unreadable, named
from quantjax.data.photo_formats import pillow
from quantjax.data.photos import Photos, check_equal, check_side, header_sizes
from quantjax.errors import InputError, MissingFileError


def image_folder(
    path: str | Path, *, size: int | None = None, skip_unreadable: bool = False
) -> Photos:
    """Reads the photos in `path`/CLASS/ as RGB, with classes and photos sorted by name.

    Sub-folders of a class belong to the class. Photos are rotated upright by their Exif tag.
    Transparent pixels become white, 16-bit grey keeps its upper 8 bits, and an animation gives its
    first picture. Symbolic links to photos and folders are followed. HEIC files are read if
    pillow-heif is installed. Without a size all headers are read once, to check that sizes agree.

    Args:
      path: Folder of class folders; a class folder without a photo is no class.
      size: Height and width in pixels: the shorter side is resized to it and the longer side is
        cropped at the centre. None takes photos as they are, which must then have one size.
      skip_unreadable: Whether to read all headers and leave out photos with an unreadable header
        instead of raising an error. Only decoding finds damage after the header, see `to_records`.

    Returns:
      The photos. Print their `summary`: it counts left-out and ignored files by kind.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder does not exist.
      ValueError: if the class folders hold no photo, the folders are parts (train, test), sizes
        are mixed, or photos are unreadable, of other depths, or decompression bombs. Unreadable
        photos raise here, all named, or when their rows are requested.
    """
    folder = Path(path).expanduser()
    found = read_class_folders(folder)
    if not found.photos:
        raise InputError(f"{folder} has no class; put photos into a folder for each class in it")
    return _source(folder, [found], size, skip_unreadable)[0]


def image_folders(
    path: str | Path,
    parts: Sequence[str],
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[Photos, list[np.ndarray]]:
    """Reads the photos in `path`/PART/CLASS/ as one source, and returns the rows of each part.

    The classes are those of all parts together; the notes name classes that a part lacks. A class
    that only queries and database have is an unseen class.

    Args:
      path: Folder of the parts.
      parts: Names of the parts, such as ("train", "validation", "test"); `image_folder` describes
        how each is read.
      size: See `image_folder`.
      skip_unreadable: See `image_folder`.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder of a part does not exist.
      ValueError: if a part is named twice, or sizes are mixed, and as `image_folder`.
    """
    root = Path(path).expanduser()
    if not all(parts) or len(set(parts)) < max(len(parts), 1):
        raise InputError(f"parts must be names that differ, got {', '.join(map(repr, parts))}")
    for part in parts:
        if root.is_dir() and not (root / part).is_dir():
            others = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
            raise MissingFileError(
                f"no folder {root / part} for the part {part}; {root} has "
                f"{', '.join(others) or 'no folder'}"
            )
    found = [read_class_folders(root / part) for part in parts]
    # A part may be a path such as "images/train"; only its first folder lies in the root.
    tops = {Path(part).parts[0] for part in parts}
    beside = [p for p in sorted(root.iterdir()) if p.name[0] != "." and p.name not in tops]
    if beside:
        found[0].ignored["beside the parts"] = beside
    source, rows = _source(root, found, size, skip_unreadable)
    absent = absent_classes(source.labels, source.classes, dict(zip(parts, rows, strict=True)))
    notes = (*source.notes, *absent)
    return Photos(source.paths, source.labels, source.classes, size, notes), rows


def absent_classes(
    labels: np.ndarray, classes: Sequence[str], parts: Mapping[str, np.ndarray]
) -> list[str]:
    """Returns a note on each part that has no photo of some class.

    Args:
      labels: Labels of all rows, multi-hot [N, L] or class ids [N].
      classes: Names of the L classes.
      parts: Rows of each part.
    """
    notes = []
    for part, rows in parts.items():
        absent = np.flatnonzero(rows_per_class(labels[rows], len(classes)) == 0)
        if len(rows) == 0:
            notes.append(f"{part} has no photo")
        elif len(absent):
            names = few([classes[number] for number in absent])
            more = f" ({len(absent)} of {len(classes)} classes)" if len(absent) > 1 else ""
            notes.append(f"{part} has no photo of {names}{more}")
    return notes


def _source(
    root: Path, found: Sequence[ClassFolders], size: int | None, skip_unreadable: bool
) -> tuple[Photos, list[np.ndarray]]:
    """Returns the photos of all parts as one source, and the rows of each part."""
    kept = [
        [(path, folder.name) for folder, paths in each.photos.items() for path in paths]
        for each in found
    ]
    notes = notes_of(root, found)
    bad = _unreadable([path for part in kept for path, _ in part], size, skip_unreadable)
    if bad:
        kept = [[photo for photo in part if photo[0] not in bad] for part in kept]
        notes.append(f"skipped {len(bad)} unreadable: {named(list(bad.values()))}")
    paths = tuple(path for part in kept for path, _ in part)
    if not paths:
        told = "".join(f"; {note}" for note in notes)
        raise InputError(f"{root} has no photo that can be read in its class folders{told}")
    classes = tuple(sorted({name for part in kept for _, name in part}))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.eye(len(classes), dtype=np.uint8)[[numbers[n] for part in kept for _, n in part]]
    # Parts are stored one after another, so each part is a range of rows.
    ends = np.cumsum([len(part) for part in kept])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    return Photos(paths, labels, classes, size, tuple(notes)), rows


def _unreadable(
    paths: Sequence[Path], size: int | None, skip_unreadable: bool
) -> Mapping[Path, UnreadablePhotoError]:
    """Returns the errors of photos to skip, by path.

    Raises ValueError for unreadable photos that may not be skipped, and for mixed sizes.
    """
    pillow()
    check_side(size)
    if size is not None and not skip_unreadable:
        return {}
    sizes, errors = header_sizes(paths)
    if errors and not skip_unreadable:
        raise all_unreadable(list(errors.values()), len(paths), may_skip=True)
    if size is None and sizes:
        check_equal(sizes)
    return errors
