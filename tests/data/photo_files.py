"""Small photos and list files for tests of readers."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_photo(path: Path, value: int = 0, side: int = 8) -> None:
    """Writes a JPEG of one grey, so that a decoded photo tells which one it is."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def write_list(path: Path, photos: Iterable[str], labels: Iterable[Iterable[int]]) -> Path:
    """Writes a line for each photo: its path, then its labels."""
    pairs = zip(photos, labels, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{photo} {' '.join(map(str, row))}\n" for photo, row in pairs))
    return path
