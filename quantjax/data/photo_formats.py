"""Lists the photo formats that can be read, and sets Pillow's limit of pixels."""

import contextlib
import functools
import importlib
import warnings
from collections.abc import Generator
from types import ModuleType
from typing import Any

from quantjax.errors import InputError, MissingPackageError

HEIC_SUFFIXES = (".heic", ".heif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *HEIC_SUFFIXES,
)
HEIC_ADVICE = 'pip install "quantjax[heic]" reads them'
LIMIT_ADVICE = "--max_pixels=N raises the limit (in Python PIL.Image.MAX_IMAGE_PIXELS = N)"
# Named to Pillow, so that no file can reach a decoder that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"heif", b"mif1", b"msf1")


def pillow() -> tuple[ModuleType, ModuleType]:
    """Returns PIL's modules Image and ImageOps; raises ModuleNotFoundError without Pillow."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'photos need Pillow, which is not installed: pip install "quantjax[folder]"'
        ) from error
    return Image, ImageOps


@functools.cache
def reads_heic() -> bool:
    """Returns whether pillow-heif is installed; if it is, registers HEIC files with Pillow."""
    try:
        # Not an import statement: type checkers run without this optional package.
        importlib.import_module("pillow_heif").register_heif_opener()
    except ModuleNotFoundError:
        return False
    return True


def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the allowed photo formats."""
    return (*_FORMATS, "HEIF") if reads_heic() else _FORMATS


def readable_suffixes() -> tuple[str, ...]:
    """Returns the file suffixes, in lower case, of photos that this machine can read."""
    return SUFFIXES if reads_heic() else tuple(s for s in SUFFIXES if s not in HEIC_SUFFIXES)


def is_heic(start: bytes) -> bool:
    """Returns whether the first 12 bytes of a file are those of a HEIC file."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def max_pixels() -> int | None:
    """Returns Pillow's limit of pixels per photo, or None without a limit."""
    return pillow()[0].MAX_IMAGE_PIXELS


@contextlib.contextmanager
def pixel_limit(limit: int | None) -> Generator[None]:
    """Sets Pillow's limit of pixels per photo, for all threads, until the context ends.

    Args:
      limit: Largest number of pixels of a photo; None keeps the limit as it is.

    Raises:
      ValueError: if the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"max_pixels must be 1 or more, got {limit}")
    image_module: Any = pillow()[0]
    before = image_module.MAX_IMAGE_PIXELS
    image_module.MAX_IMAGE_PIXELS = before if limit is None else limit
    try:
        with warnings.catch_warnings():
            # We raise an error that names the photo, so Pillow's own warning would say it twice.
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
            yield
    finally:
        image_module.MAX_IMAGE_PIXELS = before
