"""Reads photos from folders, one folder per class."""

import dataclasses
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
            'an image folder needs Pillow, which is not installed: pip install "quantjax[folder]"'
        ) from error
    return Image, ImageOps


def _unreadable(path: Path, reason: object) -> ValueError:
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
        raise _unreadable(path, error) from error


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
        raise _unreadable(path, error) from error


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """Photos decoded when they are asked for; made by `image_folder`.

    `paths` are in row order: row i of the source is the photo `paths[i]`.
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
        return {"image": image.reshape(rows.shape + image.shape[1:]), "label": self.labels[rows]}


def _photos(folder: Path) -> list[Path]:
    """Returns the photos that lie in a folder, by name; hidden files are none."""
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()
    ]
    for path in paths:
        if not path.is_file():
            raise _unreadable(path, "it is a dangling link or no regular file")
    return paths


def _check_one_size(paths: list[Path]) -> None:
    first = _header_size(paths[0])
    for path in paths[1:]:
        if (size := _header_size(path)) != first:
            raise _mixed(paths[0], first, path, size)


def image_folder(path: str | Path, *, size: int | None = None) -> ImageFolder:
    """Returns the photos in `path`/CLASS/, classes and photos sorted by name, as RGB.

    Photos are turned upright as their Exif tag says, transparency is dropped, of an animation the
    first picture is taken. Symbolic links to photos and class folders are followed; only these two
    levels are looked at. Without a size all headers are read once, to see that the sizes agree.

    Args:
      path: Folder of class folders; files beside them, and hidden ones, are ignored.
      size: Height and width in pixels, made of the shorter side by resizing and of the longer by
        cropping at the centre; None takes photos as they are, which must then be of one size.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      FileNotFoundError: if there is no such folder.
      ValueError: if there is no class, a class is empty, sizes are mixed, or (here or when rows are
        asked for) a photo is unreadable, not 8 bits a channel, or a decompression bomb.
    """
    _pillow()
    folder = Path(path).expanduser()
    if size is not None and size < 1:
        raise ValueError(f"size must be 1 pixel or more, got {size}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; name one that has a folder for each class")
    class_folders = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not class_folders:
        raise ValueError(f"{folder} has no class; put photos into a folder for each class in it")
    paths: list[Path] = []
    class_ids: list[int] = []
    for class_id, class_folder in enumerate(class_folders):
        photos = _photos(class_folder)
        if not photos:
            raise ValueError(
                f"class {class_folder} is empty; put photos ({' '.join(SUFFIXES)}) directly into "
                "it, or take it away"
            )
        paths += photos
        class_ids += [class_id] * len(photos)
    if size is None:
        _check_one_size(paths)
    labels = np.eye(len(class_folders), dtype=np.uint8)[class_ids]
    return ImageFolder(tuple(paths), labels, tuple(p.name for p in class_folders), size)
