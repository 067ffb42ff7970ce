"""Converts photos of any pixel mode, such as palettes, CMYK and 16-bit grey, to 8-bit RGB."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quantjax.data.photo_formats import pillow
from quantjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

TRANSPARENT = "transparent, composed on white"
DEEP = "grey of 16 bits, cut to the upper 8"
ANIMATED = "of several pictures, the first taken"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


def check_mode(image: "ImageFile.ImageFile") -> None:
    """Raises ValueError if a photo's pixel mode cannot be converted to 8 bits.

    32-bit integers and floats have no known range: white may be 1, 255, 4095 or anything else.
    """
    if image.mode not in _MODES and not _is_deep(image):
        raise InputError(
            f"pixels of mode {image.mode} are not 8 bits a channel, nor grey of 16; convert them"
        )


def _is_deep(image: "Image.Image") -> bool:
    # Pillow opens a 16-bit PGM, and before version 11 a 16-bit PNG, as 32-bit integers.
    return image.mode in _DEEP or (image.mode == "I" and image.format in ("PNG", "PPM"))


def to_rgb(image: "Image.Image", noted: Callable[[str], None]) -> "Image.Image":
    """Converts a photo to 8-bit RGB, with white behind transparent pixels.

    16-bit grey keeps its upper 8 bits.

    Args:
      image: The photo, of a mode that passes `check_mode`.
      noted: Called with each change that loses information, such as `TRANSPARENT`.
    """
    if _is_deep(image):
        noted(DEEP)
        image = _upper_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        # Many photos have an alpha channel in which no pixel is transparent.
        if image.getchannel("A").getextrema() != (255, 255):
            noted(TRANSPARENT)
            image_module, _ = pillow()
            white = image_module.new("RGBA", image.size, "white")
            image = image_module.alpha_composite(white, image)
    return image.convert("RGB")


def _upper_8_bits(image: "Image.Image") -> "Image.Image":
    """Keeps the upper 8 of 16 bits of grey, as Pillow does for RGB, and the transparent value."""
    image_module, _ = pillow()
    values = np.asarray(image)
    grey = image_module.fromarray((values >> 8).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is None:
        return grey
    alpha = image_module.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return image_module.merge("LA", (grey, alpha))


def has_several_pictures(image: "ImageFile.ImageFile") -> bool:
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
