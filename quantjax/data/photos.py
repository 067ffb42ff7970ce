"""Photos on disk: decoded when they are asked for, upright, as RGB of one size."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from quantjax.data.sources import check_rows

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Named to Pillow, so that no file can reach a decoder that starts another program (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
_TURNED = (5, 6, 7, 8)  # values of the Exif orientation that exchange height and width
_ORIENTATION = 0x0112


def _pillow() -> tuple[ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'photos need Pillow, which is not installed: pip install "quantjax[folder]"'
        ) from error
    return Image, ImageOps


def unreadable(path: Path, reason: object) -> ValueError:
    """Returns the error for a photo that cannot be used, and why."""
    return ValueError(f"cannot read photo {path}: {reason}; replace it or take it away")


def _mixed(
    path: Path, size: tuple[int, ...], other: Path, other_size: tuple[int, ...]
) -> ValueError:
    return ValueError(
        f"photos must have one size, got {path} of {size[0]} x {size[1]} and {other} "
        f"of {other_size[0]} x {other_size[1]} (height x width); pass size= to resize and crop"
    )


def _check_header(image: "Image.Image", limit: int | None) -> None:
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {limit:,}")
    if image.mode not in _MODES:
        raise ValueError(f"pixels of mode {image.mode} are not 8 bits a channel, convert them")


def _header_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) as the photo is seen, without decoding it."""
    image_module, _ = _pillow()
    try:
        with image_module.open(path, formats=_FORMATS) as image:
            _check_header(image, image_module.MAX_IMAGE_PIXELS)
            # Pillow would decode the whole of a PNG to look for a late Exif chunk.
            look = image.format != "PNG" or "exif" in image.info
            turned = look and image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise unreadable(path, error) from error


def _decode(path: Path, size: int | None) -> np.ndarray:
    """Returns a photo, upright, [H, W, 3] uint8; its central square at `size` pixels if given."""
    image_module, operations = _pillow()
    try:
        with image_module.open(path, formats=_FORMATS) as image:
            _check_header(image, image_module.MAX_IMAGE_PIXELS)
            operations.exif_transpose(image, in_place=True)
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("RGB")
            if size is not None:
                side = min(image.size)
                left, top = (image.width - side) / 2, (image.height - side) / 2
                square = (left, top, left + side, top + side)
                image = image.resize((size, size), image_module.Resampling.BILINEAR, box=square)
            return np.asarray(image, np.uint8)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise unreadable(path, error) from error


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
        photos = [_decode(self.paths[row], self.size) for row in rows.ravel()]
        for row, photo in zip(rows.ravel(), photos, strict=True):
            if photo.shape != photos[0].shape:
                first = self.paths[rows.flat[0]]
                raise _mixed(first, photos[0].shape, self.paths[row], photo.shape)
        image = np.stack(photos)
        label = self.labels[rows]
        if self.labels.ndim == 1:
            label = (label[..., None] == np.arange(len(self.classes))).astype(np.uint8)
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": label}


def check_size(paths: Sequence[Path], size: int | None) -> None:
    """Reads the headers of photos that are taken as they are, to see that their sizes agree.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if sizes are mixed, a photo is unreadable, or the size is below 1.
    """
    _pillow()
    if size is not None:
        if size < 1:
            raise ValueError(f"size must be 1 pixel or more, got {size}")
        return
    first = _header_size(paths[0])
    for path in paths[1:]:
        if (other := _header_size(path)) != first:
            raise _mixed(paths[0], first, path, other)
