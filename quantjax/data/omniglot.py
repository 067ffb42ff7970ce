"""Reads the handwritten characters of Omniglot from its published PNG files."""

import re
from pathlib import Path

import numpy as np

from quantjax.data.arrays import ArraySource, from_arrays
from quantjax.data.decoding import decode
from quantjax.data.locate import locate
from quantjax.data.sources import cut
from quantjax.errors import InputError, MissingFileError

NUM_DRAWERS = 20
"""Number of people who drew each character once."""

_ORIGIN = "https://github.com/brendenlake/omniglot"
_SIDE = 105  # pixels of a published drawing
# ALPHABET/characterNN/NNNN_DRAWER.png as published, or ALPHABET-characterNN/DRAWER.png.
_DRAWING = re.compile(r"(?:.*/)?([^/]+)[/-]character(\d\d)/(?:\d+_)?(\d\d)\.png")


def omniglot(data_dir: str | Path | None = None, *, size: int = 28) -> ArraySource:
    """Reads Omniglot's drawings of characters, [N, size, size, 1], with ink of 255 on black.

    Published drawings are black on white and of 105 x 105 pixels; here they are inverted, so that
    pixels that augmentation adds are background, and averaged down to `size`.

    A class is a character, such as "Greek-character05", and its alphabet the name up to the last
    "-"; parentheses of alphabets are dropped. Each was drawn by 20 people: row i is of class
    i // 20 and drawer i % 20 + 1. Classes are sorted by name.

    Args:
      data_dir: Folder that holds `omniglot`, or that folder; None searches $QUANTJAX_DATA. It has
        ALPHABET/characterNN/NNNN_DRAWER.png at any depth, as below the published images_background
        and images_evaluation, or ALPHABET-characterNN/DRAWER.png. A drawing that several of the
        published archives have is read once.
      size: Height and width, 1 to 105 pixels.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if the folder is missing, or some drawing of a character.
      ValueError: if size is out of range, or a drawing is damaged.
    """
    if not 1 <= size <= _SIDE:
        raise InputError(f"size must be 1 to {_SIDE} pixels, got {size}")
    known = ("images_background*", "images_evaluation", "*-character01")
    folder = locate(data_dir, "omniglot", origin=_ORIGIN, files=known)
    found = _drawings(folder)
    classes = sorted({name for name, _ in found})
    paths = [found[name, drawer] for name in classes for drawer in range(1, NUM_DRAWERS + 1)]
    image = np.stack([decode(path, path, size=size, mode="L") for path in paths])
    class_ids = np.repeat(np.arange(len(classes)), NUM_DRAWERS)
    return from_arrays(255 - image, class_ids, classes=classes, names=paths)


def _drawings(folder: Path) -> dict[tuple[str, int], Path]:
    """Finds the drawings below a folder by class and drawer, and checks that none is missing."""
    found, counts = {}, {}
    # Sorted, so that of a drawing's copies the same is read on every machine.
    for path in sorted(folder.rglob("*.png")):
        if match := _DRAWING.fullmatch(path.relative_to(folder).as_posix()):
            alphabet, character, drawer = match.groups()
            # Published as "Japanese_(katakana)"; copies of the set have dropped parentheses.
            alphabet = re.sub("[()]", "", alphabet)
            counts[alphabet] = max(int(character), counts.get(alphabet, 0))
            found[f"{alphabet}-character{character}", int(drawer)] = path
    missing = [
        f"{alphabet}-character{character:02}/{drawer:02}.png"
        for alphabet, last in counts.items()
        for character in range(1, last + 1)
        for drawer in range(1, NUM_DRAWERS + 1)
        if (f"{alphabet}-character{character:02}", drawer) not in found
    ]
    if missing or not found:
        lacks = ", ".join(cut(missing, most=3)) or "all ALPHABET/characterNN/NNNN_DRAWER.png"
        raise MissingFileError(
            f"{folder} is half there, it lacks {lacks}; unpack the whole archives from {_ORIGIN}"
        )
    return found
