"""Finds and shrinks the photos of an index, and reads no file outside of their folder."""

import functools
import io
from pathlib import Path

from quantjax.data import decoding

_SIDE = 448  # pixels of the longer side: twice a tile of the page, for dense screens


def photo_path(root: Path | None, name: object) -> Path | None:
    """Returns the path of an item's photo, or None if there is none inside of the root folder.

    An index may come from anywhere, so its ids are not trusted: links are followed, and a file that
    lies outside of the root is not read.

    Args:
      root: Folder, resolved.
      name: The item's id; a number has no photo.
    """
    if root is None or not isinstance(name, str):
        return None
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # names too long, with NULs, or links in a circle
        return None


@functools.lru_cache(maxsize=2048)
def thumbnail(path: Path) -> bytes:
    """Decodes a photo, upright, and shrinks it to a JPEG; keeps the last 2,048 in memory.

    Args:
      path: File of the photo.

    Returns:
      Bytes of a JPEG of at most 448 pixels a side.

    Raises:
      ValueError: if the photo is unreadable, or has more pixels than `decoding.pixel_limit` allows.
    """
    image_module, _ = decoding.pillow()
    # Decoded by the reader of training photos, whose checks a hostile file meets here too.
    image = image_module.fromarray(decoding.decode(path, path.name, size=None))
    image.thumbnail((_SIDE, _SIDE), image_module.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
