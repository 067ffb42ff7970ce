"""Reads photos from folders, one folder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantjax.data.photo_errors import unreadable
from quantjax.data.photo_formats import readable_suffixes
from quantjax.data.photos import Photos, check_size
from quantjax.errors import InputError, MissingFileError


def _photos(folder: Path) -> list[Path]:
    """Returns the photos that lie in a folder, by name; hidden files are none."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in readable_suffixes() and path.name[0] != "." and not path.is_dir()
    ]
    for path in paths:
        if not path.is_file():
            raise unreadable(path, "it is a dangling link or no regular file")
    return paths


def image_folder(path: str | Path, *, size: int | None = None) -> Photos:
    """Returns the photos in `path`/CLASS/, classes and photos sorted by name, as RGB.

    Photos are turned upright as their Exif tag says, what is transparent becomes white, of 16 bits
    of grey the upper 8 are taken, of an animation the first picture. Symbolic links to photos and
    class folders are followed; only these two levels are looked at. Without a size all headers are
    read once, to see that the sizes agree.

    Args:
      path: Folder of class folders; files beside them, and hidden ones, are ignored.
      size: Height and width in pixels, made of the shorter side by resizing and of the longer by
        cropping at the centre; None takes photos as they are, which must then be of one size.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if there is no such folder.
      ValueError: if there is no class, a class is empty, sizes are mixed, or (here or when rows are
        asked for) a photo is unreadable, of other depths, or a decompression bomb.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; name one that has a folder for each class")
    class_folders = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not class_folders:
        raise InputError(f"{folder} has no class; put photos into a folder for each class in it")
    paths: list[Path] = []
    class_ids: list[int] = []
    for class_id, class_folder in enumerate(class_folders):
        photos = _photos(class_folder)
        if not photos:
            raise InputError(
                f"class {class_folder} is empty; put photos ({' '.join(readable_suffixes())}) "
                "directly into it, or take it away"
            )
        paths += photos
        class_ids += [class_id] * len(photos)
    check_size(paths, size)
    labels = np.eye(len(class_folders), dtype=np.uint8)[class_ids]
    return Photos(tuple(paths), labels, tuple(p.name for p in class_folders), size)


def image_folders(
    path: str | Path, parts: Sequence[str], *, size: int | None = None
) -> tuple[Photos, list[np.ndarray]]:
    """Returns the photos in `path`/PART/CLASS/ as one source, and the rows of each part.

    Args:
      path: Folder of the parts.
      parts: Their names, such as ("train", "validation", "test"); each as `image_folder` reads it.
      size: See `image_folder`.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if a part is not there.
      ValueError: if parts have different classes, or sizes are mixed, and as `image_folder`.
    """
    found = [image_folder(Path(path) / part, size=size) for part in parts]
    for part, photos in zip(parts, found, strict=True):
        if photos.classes != found[0].classes:
            odd = sorted(set(photos.classes) ^ set(found[0].classes))[0]
            raise InputError(
                f"parts must have the same classes, but {odd} is not in both {parts[0]} and {part}"
            )
    paths = tuple(path for photos in found for path in photos.paths)
    check_size(paths, size)
    ends = np.cumsum([len(photos) for photos in found])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    labels = np.concatenate([photos.labels for photos in found])
    return Photos(paths, labels, found[0].classes, size), rows
