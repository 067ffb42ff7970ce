"""Reads photos from folders, one folder per class."""

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
    """Returns the photos in `path`/CLASS/, classes and photos sorted by name, as RGB.

    Sub-folders of a class belong to the class. Photos are turned upright as their Exif tag says;
    what is transparent becomes white, of 16 bits of grey the upper 8 are taken, of an animation
    the first picture. Symbolic links to photos and folders are followed. HEIC files are read where
    pillow-heif is installed. Without a size all headers are read once, to see that sizes agree.

    Args:
      path: Folder of class folders; a class folder without a photo is no class.
      size: Height and width in pixels, made of the shorter side by resizing and of the longer by
        cropping at the centre; None takes photos as they are, which must then be of one size.
      skip_unreadable: Reads all headers, and leaves out photos whose header is unreadable instead
        of refusing them. Damage behind a header is seen by decoding alone, see `to_records`.

    Returns:
      The photos. Its `summary` counts what was left out or ignored, by kind; print it.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if there is no such folder.
      ValueError: if there is no photo in a class folder, the folders are parts (train, test), sizes
        are mixed, or (here, naming all, or when rows are asked for) photos are unreadable, of other
        depths, or decompression bombs.
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
    """Returns the photos in `path`/PART/CLASS/ as one source, and the rows of each part.

    Classes are those of all parts together; one that a part lacks is noted. A class of queries and
    database that does not train is an unseen class.

    Args:
      path: Folder of the parts.
      parts: Their names, such as ("train", "validation", "test"); each as `image_folder` reads it.
      size: See `image_folder`.
      skip_unreadable: See `image_folder`.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if a part is not there.
      ValueError: if parts are named twice, or sizes are mixed, and as `image_folder`.
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
    """Returns a note on each part that lacks classes.

    Args:
      labels: Of all rows, multi-hot [N, L] or class ids [N].
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
    ends = np.cumsum([len(part) for part in kept])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    return Photos(paths, labels, classes, size, tuple(notes)), rows


def _unreadable(
    paths: Sequence[Path], size: int | None, skip_unreadable: bool
) -> Mapping[Path, UnreadablePhotoError]:
    """Returns the errors of photos to be skipped, by path; refuses others, and mixed sizes."""
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
