"""Photos on disk: decoded when they are asked for, upright, as RGB of one size."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Named to Pillow, so that no file can reach a decoder that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
_TURNED = (5, 6, 7, 8)  # values of the Exif orientation that exchange height and width
_ORIENTATION = 0x0112
_TILE = 0x0142, 0x0143  # width and height of a TIFF's tiles
# Pillow decodes a compressed BMP in Python, line by line of two bytes: 38 kB took it 18 s.
_MAX_RLE_PIXELS = 1 << 22


def _pillow() -> tuple[ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'photos need Pillow, which is not installed: pip install "quantjax[folder]"'
        ) from error
    return Image, ImageOps


def unreadable(name: object, reason: object) -> ValueError:
    """Returns the error for a photo that cannot be used, and why."""
    shown = " ".join(str(reason)[:400].split()) or type(reason).__name__
    return InputError(f"cannot read photo {name}: {shown}; replace it or take it away")


def mixed(
    name: object, size: tuple[int, ...], other: object, other_size: tuple[int, ...]
) -> ValueError:
    """Returns the error for two photos whose heights and widths differ."""
    return InputError(
        f"photos must have one size, got {name} of {size[0]} x {size[1]} and {other} "
        f"of {other_size[0]} x {other_size[1]} (height x width); pass size= to resize and crop"
    )


def _check_header(image: "ImageFile.ImageFile", limit: int | None) -> None:
    if limit is not None and image.width * image.height > limit:
        raise InputError(f"{image.width} x {image.height} pixels are more than {limit:,}")
    if limit is not None and image.format == "TIFF":
        _check_pieces(image, limit)
    is_rle = bool(image.tile) and image.tile[0][0] == "bmp_rle"
    if is_rle and image.width * image.height > _MAX_RLE_PIXELS:
        raise InputError(
            f"{image.width} x {image.height} pixels are more than the {_MAX_RLE_PIXELS:,} that a "
            "compressed BMP may have"
        )
    if image.mode not in _MODES:
        raise InputError(f"pixels of mode {image.mode} are not 8 bits a channel, convert them")


def _check_pieces(image: "ImageFile.ImageFile", limit: int) -> None:
    """Refuses a TIFF of tiles too large, or of pieces that have more pixels than it."""
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(number, 1)) for number in _TILE)
    if width * height > limit:
        raise InputError(f"a tile of {width} x {height} pixels has more than {limit:,}")
    # Each is decoded, and any number of them may name one place of a small file.
    area = 0
    for _, extents, *_ in image.tile:
        left, upper, right, lower = extents or (0, 0, 0, 0)
        area += (right - left) * (lower - upper)
    if area > len(image.getbands()) * image.width * image.height:
        raise InputError(f"its pieces have more pixels than its {image.width} x {image.height}")


def header_size(file: Path | io.BytesIO, name: object) -> tuple[int, int]:
    """Returns (height, width) as the photo is seen, without decoding it.

    Raises:
      ValueError: if it is unreadable.
    """
    image_module, _ = _pillow()
    try:
        with image_module.open(file, formats=_FORMATS) as image:
            _check_header(image, image_module.MAX_IMAGE_PIXELS)
            # Pillow would decode the whole of a PNG to look for a late Exif chunk.
            look = image.format != "PNG" or "exif" in image.info
            turned = look and image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise unreadable(name, error) from error


def _central_square(image: "Image.Image", size: int) -> "Image.Image":
    """Returns the shorter side at `size` pixels, and of the longer side as much, of its middle."""
    image_module, _ = _pillow()
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = (left, top, left + side, top + side)
    return image.resize((size, size), image_module.Resampling.BILINEAR, box=square)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the central square of pixels [H, W, C] uint8 at `size` pixels; C is 1 or 3."""
    image_module, _ = _pillow()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    square = _central_square(image_module.fromarray(pixels), size)
    return np.asarray(square).reshape(size, size, -1)


def decode(
    file: Path | io.BytesIO, name: object, *, size: int | None, mode: str = "RGB"
) -> np.ndarray:
    """Returns a photo, upright; its central square at `size` pixels if that is given.

    Args:
      file: Where the photo is, or its bytes.
      name: What an error calls it.
      size: Height and width in pixels, or None for the photo as it is.
      mode: "RGB", or "L" for grey.

    Returns:
      Pixels, [H, W, 3] or [H, W, 1] uint8.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if it is unreadable, not 8 bits a channel, or a decompression bomb.
    """
    image_module, operations = _pillow()
    try:
        with image_module.open(file, formats=_FORMATS) as image:
            _check_header(image, image_module.MAX_IMAGE_PIXELS)
            operations.exif_transpose(image, in_place=True)
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("RGB")
            if mode != "RGB":
                image = image.convert(mode)
            if size is not None:
                image = _central_square(image, size)
            return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise unreadable(name, error) from error


def stacked(photos: Sequence[np.ndarray], names: Sequence[object]) -> np.ndarray:
    """Returns photos [n, H, W, C]; raises ValueError, with two names, where sizes differ."""
    for name, photo in zip(names, photos, strict=True):
        if photo.shape != photos[0].shape:
            raise mixed(names[0], photos[0].shape, name, photo.shape)
    return np.stack(photos)


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """A source of photos decoded when they are asked for; made by `image_folder`, `file_lists`.

    Attributes:
      paths: Row i of the source is the photo `paths[i]`.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      size: Height and width in pixels, or None for photos as they are.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        paths = [self.paths[row] for row in rows.ravel()]
        image = stacked([decode(path, path, size=self.size) for path in paths], paths)
        label = batch_label(self.labels, rows, len(self.classes))
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": label}


def check_size(paths: Sequence[Path], size: int | None) -> None:
    """Reads the headers of photos that are taken as they are, to see that their sizes agree.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if sizes are mixed, a photo is unreadable, or the size is below 1.
    """
    _pillow()
    check_side(size)
    if size is not None:
        return
    first = header_size(paths[0], paths[0])
    for path in paths[1:]:
        if (other := header_size(path, path)) != first:
            raise mixed(paths[0], first, path, other)


def check_side(size: int | None) -> None:
    """Raises ValueError if the size is below 1."""
    if size is not None and size < 1:
        raise InputError(f"size must be 1 pixel or more, got {size}")


def max_pixels() -> int | None:
    """Returns how many pixels a photo may have, Pillow's limit, or None where there is none."""
    return _pillow()[0].MAX_IMAGE_PIXELS
