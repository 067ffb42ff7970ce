"""Small photos and list files for tests of readers."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_photo(path: Path, value: int = 0, side: int = 8) -> None:
    """Writes a JPEG of a single grey value, which identifies the decoded photo."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def plant(folder: Path, names: str) -> Path:
    """Writes what words name: small photos, other files, and folders, which end in "/"."""
    for name in names.split():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        elif path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"):
            write_photo(path, len(name))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no photo")
    return folder


def write_random_photo(
    path: Path, rng: np.random.Generator, height: int = 12, width: int = 12, **options: Any
) -> None:
    """Writes a photo of random pixels, with Pillow's options of its format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def write_ants_and_cats(folder: Path, rng: np.random.Generator) -> None:
    """Writes eleven photos of two classes, formats and orientations, one size as they are seen."""
    from PIL import Image

    lying = Image.Exif()
    lying[0x0112] = 6
    for i in range(5):
        write_random_photo(folder / "ant" / f"{i}.jpg", rng, 10, 14)
    for i in range(5):
        write_random_photo(folder / "cat" / f"{i}.png", rng, 10, 14)
    write_random_photo(folder / "cat" / "lying.jpg", rng, 14, 10, exif=lying)


def shards(folder: Path) -> list[Path]:
    """Returns the files of records, in order."""
    return sorted(folder.glob("*.array_record"))


def write_list(path: Path, photos: Iterable[str], labels: Iterable[Iterable[int]]) -> Path:
    """Writes a line for each photo: its path, then its labels."""
    pairs = zip(photos, labels, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{photo} {' '.join(map(str, row))}\n" for photo, row in pairs))
    return path


def tiff(
    height: int, width: int, pieces: Sequence[bytes], tile: tuple[int, int], *, deflated: bool
) -> bytes:
    """A grey TIFF of 8 bits, in tiles or, of the image's own width, in strips of rows.

    Args:
      height: In pixels.
      width: In pixels.
      pieces: Content of each; equal ones are written once.
      tile: Height and width of a piece.
      deflated: Whether pieces are.
    """
    places, body = {}, b""
    for piece in dict.fromkeys(pieces):
        places[piece] = 8 + len(body)
        body += piece + bytes(len(piece) % 2)
    offsets = 8 + len(body)
    body += struct.pack(f"<{len(pieces)}I", *(places[piece] for piece in pieces))
    counts = 8 + len(body)
    body += struct.pack(f"<{len(pieces)}I", *map(len, pieces))
    tags = {256: width, 257: height, 258: 8, 259: 8 if deflated else 1, 262: 1, 277: 1}
    if tile[1] == width:
        tags |= {273: offsets, 278: tile[0], 279: counts}
    else:
        tags |= {322: tile[1], 323: tile[0], 324: offsets, 325: counts}
    arrays = {offsets: places[pieces[0]], counts: len(pieces[0])}
    entries = b""
    for number, value in sorted(tags.items()):
        is_array = number in (273, 279, 324, 325)
        if is_array and len(pieces) == 1:  # it stands in the entry itself
            value = arrays[value]
        entries += struct.pack("<HHII", number, 4, len(pieces) if is_array else 1, value)
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(tags)) + entries + bytes(4)
