"""Decodes one photo of any allowed format and pixel mode, upright, as 8-bit RGB or grey."""

import contextlib
import functools
import importlib
import io
import os
import re
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from quantjax.errors import InputError, load_package

if TYPE_CHECKING:
    from PIL import Image, ImageFile

HEIC_SUFFIXES = (".heic", ".heif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *HEIC_SUFFIXES,
)
HEIC_ADVICE = 'pip install "quantjax[heic]" reads them'
LIMIT_ADVICE = "--max_pixels=N raises the limit (in Python PIL.Image.MAX_IMAGE_PIXELS = N)"
TRANSPARENT = "transparent, composed on white"
DEEP = "grey of 16 bits, cut to the upper 8"
ANIMATED = "of several pictures, the first taken"
# Named to Pillow, so that no file can reach a decoder that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"heif", b"mif1", b"msf1")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_TURNED = (5, 6, 7, 8)  # values of the Exif orientation that exchange height and width
_ORIENTATION = 0x0112
_TILE = 0x0142, 0x0143  # width and height of a TIFF's tiles
# Pillow decodes a compressed BMP in Python, line by line of two bytes: 38 kB took it 18 s.
_MAX_RLE_PIXELS = 1 << 22
_BOMB = re.compile(r"Image size \((\d+) pixels\).*", re.DOTALL)  # Pillow's words
_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")  # how Python prints a file in memory


class UnreadablePhotoError(InputError):
    """Reports a photo that cannot be used, in one line: the photo, the reason and advice.

    Attributes:
      photo: Name of the photo.
      reason: Reason why the photo cannot be used.
      advice: A remedy other than replacing or removing the photo; may be empty.
    """

    def __init__(self, photo: object, reason: object, advice: str = "") -> None:
        text = _OBJECT.sub("", str(reason)[:400])
        # A decoder's message may have many lines, or none at all.
        self.reason = " ".join(text.split()) or type(reason).__name__
        self.photo, self.advice = str(photo), advice
        # These arguments and not the message: an error of a worker process is made from them anew.
        super().__init__(self.photo, self.reason, advice)

    def __str__(self) -> str:
        told = filter(None, (self.reason, self.advice, "replace it or take it away"))
        return f"cannot read photo {self.photo}: {'; '.join(told)}"


def pillow() -> tuple[ModuleType, ModuleType]:
    """Returns PIL's modules Image and ImageOps; raises ModuleNotFoundError without Pillow."""
    load_package("PIL", extra="folder", purpose="reading photos")
    from PIL import Image, ImageOps

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


def readable_suffixes() -> tuple[str, ...]:
    """Returns the file suffixes, in lower case, of photos that this machine can read."""
    return SUFFIXES if reads_heic() else tuple(s for s in SUFFIXES if s not in HEIC_SUFFIXES)


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


def check_file(path: Path) -> None:
    """Raises ValueError if a path is a dangling link, a pipe or another thing that is no file."""
    if not path.is_file() and os.path.lexists(path):
        raise UnreadablePhotoError(path, "it is a dangling link or no regular file")


def header_size(file: Path | io.BytesIO, name: object) -> tuple[int, int]:
    """Reads the (height, width) of an upright photo from its header, without decoding it.

    Raises:
      ValueError: if the photo is unreadable.
    """
    with _opened(file, name) as image:
        # Pillow would decode the whole of a PNG to look for a late Exif chunk.
        look = image.format != "PNG" or "exif" in image.info
        turned = look and image.getexif().get(_ORIENTATION) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)


def decode(
    file: Path | io.BytesIO,
    name: object,
    *,
    size: int | None,
    mode: str = "RGB",
    noted: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Decodes a photo upright, and crops and resizes it if a size is given.

    Transparent pixels become white, 16-bit grey keeps its upper 8 bits, and of several pictures the
    first is taken.

    Args:
      file: Path of the photo, or its bytes.
      name: Name of the photo in errors.
      size: Height and width in pixels of the central square, or None for the whole photo.
      mode: "RGB", or "L" for grey.
      noted: Called with a few words on each of these changes that the photo needed.

    Returns:
      Pixels, [H, W, 3] or [H, W, 1] uint8.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if the photo is unreadable, of another depth, or a decompression bomb.
    """
    _, operations = pillow()
    with _opened(file, name) as opened:
        operations.exif_transpose(opened, in_place=True)
        image = _to_rgb(opened, noted or (lambda change: None))
        if mode != "RGB":
            image = image.convert(mode)
        if size is not None:
            image = _central_square(image, size)
        pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
        # Last, as it moves to the second picture; only if asked, as it may decode that picture.
        if noted is not None and _has_several_pictures(opened):
            noted(ANIMATED)
        return pixels


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Crops the central square of pixels [H, W, C] uint8, C 1 or 3, and resizes it to `size`."""
    image_module, _ = pillow()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    square = _central_square(image_module.fromarray(pixels), size)
    return np.asarray(square).reshape(size, size, -1)


@contextlib.contextmanager
def _opened(file: Path | io.BytesIO, name: object) -> "Generator[ImageFile.ImageFile]":
    """Opens a photo and checks its header; every error in the context names the photo."""
    image_module, _ = pillow()
    if isinstance(file, Path):
        check_file(file)
    formats = (*_FORMATS, "HEIF") if reads_heic() else _FORMATS
    try:
        with image_module.open(file, formats=formats) as image:
            _check_header(image, name)
            yield image
    except UnreadablePhotoError:
        raise
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        found = _BOMB.sub(rf"\1 pixels are more than {max_pixels():,}", str(error))
        raise UnreadablePhotoError(name, found, LIMIT_ADVICE) from error
    except image_module.UnidentifiedImageError as error:
        if _is_heic(file) and not reads_heic():
            raise UnreadablePhotoError(name, "it is HEIC", HEIC_ADVICE) from error
        # Pillow's words without the name of the file, which may be one in memory.
        raise UnreadablePhotoError(name, "cannot identify image file") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise UnreadablePhotoError(name, error) from error


def _is_heic(file: Path | io.BytesIO) -> bool:
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()[:12]) as stream:
        start = stream.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def _check_header(image: "ImageFile.ImageFile", name: object) -> None:
    """Raises ValueError if decoding a photo could fill the memory, or has no known result."""
    limit, size = max_pixels(), f"{image.width} x {image.height}"
    if limit is not None and image.width * image.height > limit:
        reason = f"{size} pixels are more than {limit:,}"
        raise UnreadablePhotoError(name, reason, LIMIT_ADVICE)
    if limit is not None and image.format == "TIFF":
        _check_pieces(image, name, limit)
    is_rle = bool(image.tile) and image.tile[0][0] == "bmp_rle"
    if is_rle and image.width * image.height > _MAX_RLE_PIXELS:
        raise InputError(
            f"{size} pixels are more than the {_MAX_RLE_PIXELS:,} that a compressed BMP may have; "
            "save it as PNG"
        )
    # 32-bit integers and floats have no known range: white may be 1, 255, 4095 or anything else.
    if image.mode not in _MODES and not _is_deep(image):
        raise InputError(
            f"pixels of mode {image.mode} are not 8 bits a channel, nor grey of 16; convert them"
        )


def _check_pieces(image: "ImageFile.ImageFile", name: object, limit: int) -> None:
    """Raises an error if a TIFF's tiles are too large, or add up to more pixels than the image."""
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(number, 1)) for number in _TILE)
    if width * height > limit:
        reason = f"a tile of {width} x {height} pixels has more than {limit:,}"
        raise UnreadablePhotoError(name, reason, LIMIT_ADVICE)
    # Every tile is decoded, and in a malicious file many tiles may share the same few bytes.
    area = 0
    for _, extents, *_ in image.tile:
        left, upper, right, lower = extents or (0, 0, 0, 0)
        area += (right - left) * (lower - upper)
    if area > len(image.getbands()) * image.width * image.height:
        raise InputError(f"its pieces have more pixels than its {image.width} x {image.height}")


def _central_square(image: "Image.Image", size: int) -> "Image.Image":
    """Crops the central square of a photo and resizes it to `size` pixels."""
    image_module, _ = pillow()
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = (left, top, left + side, top + side)
    return image.resize((size, size), image_module.Resampling.BILINEAR, box=square)


def _to_rgb(image: "Image.Image", noted: Callable[[str], None]) -> "Image.Image":
    """Converts a photo to 8-bit RGB, with white behind transparent pixels."""
    image_module, _ = pillow()
    if _is_deep(image):
        noted(DEEP)
        image = _upper_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        # Many photos have an alpha channel in which no pixel is transparent.
        if image.getchannel("A").getextrema() != (255, 255):
            noted(TRANSPARENT)
            white = image_module.new("RGBA", image.size, "white")
            image = image_module.alpha_composite(white, image)
    return image.convert("RGB")


def _is_deep(image: "Image.Image") -> bool:
    # Pillow opens a 16-bit PGM, and before version 11 a 16-bit PNG, as 32-bit integers.
    return image.mode in _DEEP or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _upper_8_bits(image: "Image.Image") -> "Image.Image":
    """Keeps the upper 8 of 16 bits of grey, as Pillow does for RGB, and the transparent value."""
    image_module, _ = pillow()
    values = np.asarray(image)
    grey = image_module.fromarray((values >> 8).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is None:
        return grey
    # Compared before the lower bits are lost: only that one of 65,536 values is transparent.
    alpha = image_module.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return image_module.merge("LA", (grey, alpha))


def _has_several_pictures(image: "ImageFile.ImageFile") -> bool:
    """Returns whether a GIF, PNG, WebP or TIFF has several pictures; moves to the second.

    JPEG does not count: phones store previews and depth maps after its picture, and ignoring these
    loses nothing.
    """
    if image.format not in ("GIF", "PNG", "WEBP", "TIFF"):
        return False
    try:
        image.seek(1)
    except Exception:  # no second picture, or an unreadable one: the first is complete either way
        return False
    return True
