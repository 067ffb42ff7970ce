"""Reads photos from disk and decodes them on demand, upright, as RGB of one size."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from quantjax.data.photo_errors import (
    TooManyPixelsError,
    UnreadablePhotoError,
    all_unreadable,
    check_file,
    mixed,
    unreadable,
)
from quantjax.data.photo_formats import (
    HEIC_ADVICE,
    LIMIT_ADVICE,
    formats,
    is_heic,
    max_pixels,
    pillow,
    reads_heic,
)
from quantjax.data.photo_modes import ANIMATED, check_mode, has_several_pictures, to_rgb
from quantjax.data.sources import batch_label, check_rows
from quantjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

_BOMB = re.compile(r"Image size \((\d+) pixels\).*", re.DOTALL)  # Pillow's words
_TURNED = (5, 6, 7, 8)  # values of the Exif orientation that exchange height and width
_ORIENTATION = 0x0112
_TILE = 0x0142, 0x0143  # width and height of a TIFF's tiles
# Pillow decodes a compressed BMP in Python, line by line of two bytes: 38 kB took it 18 s.
_MAX_RLE_PIXELS = 1 << 22


def _check_header(image: "ImageFile.ImageFile", limit: int | None) -> None:
    if limit is not None and image.width * image.height > limit:
        raise TooManyPixelsError(f"{image.width} x {image.height} pixels are more than {limit:,}")
    if limit is not None and image.format == "TIFF":
        _check_pieces(image, limit)
    is_rle = bool(image.tile) and image.tile[0][0] == "bmp_rle"
    if is_rle and image.width * image.height > _MAX_RLE_PIXELS:
        raise InputError(
            f"{image.width} x {image.height} pixels are more than the {_MAX_RLE_PIXELS:,} that a "
            "compressed BMP may have; save it as PNG"
        )
    check_mode(image)


def _check_pieces(image: "ImageFile.ImageFile", limit: int) -> None:
    """Raises an error if a TIFF's tiles are too large, or add up to more pixels than the image."""
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(number, 1)) for number in _TILE)
    if width * height > limit:
        raise TooManyPixelsError(f"a tile of {width} x {height} pixels has more than {limit:,}")
    # Every tile is decoded, and in a malicious file many tiles may share the same few bytes.
    area = 0
    for _, extents, *_ in image.tile:
        left, upper, right, lower = extents or (0, 0, 0, 0)
        area += (right - left) * (lower - upper)
    if area > len(image.getbands()) * image.width * image.height:
        raise InputError(f"its pieces have more pixels than its {image.width} x {image.height}")


def _opened(file: Path | io.BytesIO) -> BinaryIO:
    return file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()[:12])


def _explained(name: object, error: Exception, file: Path | io.BytesIO) -> UnreadablePhotoError:
    """Converts a decoder's error into an error that names the photo and gives advice."""
    image_module, _ = pillow()
    bombs = (image_module.DecompressionBombError, image_module.DecompressionBombWarning)
    if isinstance(error, (TooManyPixelsError, *bombs)):
        found = _BOMB.sub(rf"\1 pixels are more than {max_pixels():,}", str(error))
        return unreadable(name, found, LIMIT_ADVICE)
    if type(error).__name__ != "UnidentifiedImageError":
        return unreadable(name, error)
    start = b""
    with contextlib.suppress(OSError), _opened(file) as stream:
        start = stream.read(12)
    if is_heic(start) and not reads_heic():
        return unreadable(name, "it is HEIC", HEIC_ADVICE)
    return unreadable(name, "cannot identify image file")  # Pillow's words less the name


def header_size(file: Path | io.BytesIO, name: object) -> tuple[int, int]:
    """Reads the (height, width) of an upright photo from its header, without decoding it.

    Raises:
      ValueError: if the photo is unreadable.
    """
    image_module, _ = pillow()
    if isinstance(file, Path):
        check_file(file)
    try:
        with image_module.open(file, formats=formats()) as image:
            _check_header(image, image_module.MAX_IMAGE_PIXELS)
            # Pillow would decode the whole of a PNG to look for a late Exif chunk.
            look = image.format != "PNG" or "exif" in image.info
            turned = look and image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise _explained(name, error, file) from error


def _central_square(image: "Image.Image", size: int) -> "Image.Image":
    """Crops the central square of a photo and resizes it to `size` pixels."""
    image_module, _ = pillow()
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = (left, top, left + side, top + side)
    return image.resize((size, size), image_module.Resampling.BILINEAR, box=square)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Crops the central square of pixels [H, W, C] uint8, C 1 or 3, and resizes it to `size`."""
    image_module, _ = pillow()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    square = _central_square(image_module.fromarray(pixels), size)
    return np.asarray(square).reshape(size, size, -1)


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
    image_module, operations = pillow()
    if isinstance(file, Path):
        check_file(file)
    try:
        with image_module.open(file, formats=formats()) as opened:
            _check_header(opened, image_module.MAX_IMAGE_PIXELS)
            operations.exif_transpose(opened, in_place=True)
            image = to_rgb(opened, noted or (lambda change: None))
            if mode != "RGB":
                image = image.convert(mode)
            if size is not None:
                image = _central_square(image, size)
            pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
            # Last, as it moves to the second picture.
            if noted is not None and has_several_pictures(opened):
                noted(ANIMATED)
            return pixels
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise _explained(name, error, file) from error


def stacked(photos: Sequence[np.ndarray], names: Sequence[object]) -> np.ndarray:
    """Stacks photos into [n, H, W, C]; raises ValueError, with two names, if sizes differ."""
    for name, photo in zip(names, photos, strict=True):
        if photo.shape != photos[0].shape:
            raise mixed(names[0], photos[0].shape, name, photo.shape)
    return np.stack(photos)


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Decodes photo files on demand, as a data source; made by `image_folder` or `file_lists`.

    Attributes:
      paths: Row i of the source is the photo `paths[i]`.
      labels: Multi-hot labels [N, L] uint8, or class ids [N] int64 where a photo has one class; a
        batch's "label" is multi-hot either way.
      classes: Names of the L classes.
      size: Height and width in pixels, or None for photos as they are.
      notes: Notes on ignored files and on oddities of the photos.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int | None
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Returns the numbers of photos and classes, and the notes, in one line."""
        counts = f"{len(self)} photos of {len(self.classes)} classes"
        return "; ".join((counts, *self.notes))

    def __len__(self) -> int:
        return len(self.paths)

    def name_of(self, row: int) -> Path:
        """Returns the path of the photo of a row."""
        return self.paths[row]

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = check_rows(rows, len(self))
        paths = [self.paths[row] for row in rows.ravel()]
        image = stacked([decode(path, path, size=self.size) for path in paths], paths)
        label = batch_label(self.labels, rows, len(self.classes))
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": label}


def check_size(paths: Sequence[Path], size: int | None) -> None:
    """Raises ValueError if photos that will not be resized have several sizes.

    Without a size all headers are read; with a size photos are resized, and no header is read.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if sizes are mixed, photos are unreadable, or the size is below 1.
    """
    pillow()
    check_side(size)
    if size is None:
        sizes, errors = header_sizes(paths)
        if errors:
            raise all_unreadable(list(errors.values()), len(paths), may_skip=False)
        check_equal(sizes)


def header_sizes(
    paths: Sequence[Path],
) -> tuple[dict[Path, tuple[int, int]], dict[Path, UnreadablePhotoError]]:
    """Reads the upright height and width of each photo, or the error of an unreadable photo."""
    sizes: dict[Path, tuple[int, int]] = {}
    errors: dict[Path, UnreadablePhotoError] = {}
    for path in paths:
        try:
            sizes[path] = header_size(path, path)
        except UnreadablePhotoError as error:
            errors[path] = error
    return sizes, errors


def check_equal(sizes: Mapping[Path, tuple[int, int]]) -> None:
    """Raises ValueError, with two photos' names, if photos have several sizes."""
    first, *others = sizes
    for path in others:
        if sizes[path] != sizes[first]:
            raise mixed(first, sizes[first], path, sizes[path])


def check_side(size: int | None) -> None:
    """Raises ValueError if the size is below 1."""
    if size is not None and size < 1:
        raise InputError(f"size must be 1 pixel or more, got {size}")
