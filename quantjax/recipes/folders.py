"""Finds the photos of a folder and splits them: by its parts, by class, or not at all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantjax import data
from quantjax.data.decoding import readable_suffixes
from quantjax.data.photo_files import existing_folder
from quantjax.errors import InputError

PARTS = ("train", "validation", "test")
_SHARES = (80, 10, 10)  # per cent of each class


def find_photos(
    folder: str | Path, *, size: int, parts: Sequence[str] = (), seed: int = 0
) -> tuple[data.Photos, dict[str, np.ndarray]]:
    """Returns the photos of a folder, and the rows of "train", "validation" and "test".

    Args:
      folder: Folder of the parts "train", "test" and maybe "validation"; else of class folders, of
        which 80, 10 and 10 per cent are drawn; else of photos without classes.
      size: Height and width in pixels to which photos are cropped and resized.
      parts: Names of the parts that stand for the three, or for train and test.
      seed: Seed of the draw.

    Returns:
      The photos, and the rows of each part; no parts for photos without classes.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder or a part does not exist.
      ValueError: if the folder has no photo, or there are not two or three parts.
    """
    folder = existing_folder(folder)
    if not parts and all((folder / name).is_dir() for name in ("train", "test")):
        parts = [name for name in PARTS if (folder / name).is_dir()]
    if parts:
        return _of_parts(folder, parts, size)
    suffixes = readable_suffixes()
    # Folders beside photos are classes, and `image_folder` then says which photos have none.
    entries = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    flat = [path for path in entries if path.suffix.lower() in suffixes and not path.is_dir()]
    if flat and not any(path.is_dir() for path in entries):
        return data.from_photos(flat, size=size), {}
    photos = data.image_folder(folder, size=size)
    return photos, data.stratified(photos.labels, dict(zip(PARTS, _SHARES, strict=True)), seed=seed)


def _of_parts(folder, parts, size):
    if not 2 <= len(parts) <= 3:
        raise InputError(f"parts must be two or three folders, got {', '.join(parts)}")
    photos, rows = data.image_folders(folder, parts, size=size)
    found = {"train": rows[0], "validation": np.zeros(0, np.int64), "test": rows[-1]}
    return photos, found if len(rows) == 2 else {**found, "validation": rows[1]}
