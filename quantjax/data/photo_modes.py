"""From the pixels of a photo's file, of any mode that can be had, to 8 bits of RGB."""

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
    """Raises ValueError if a photo's pixels have no known way to 8 bits.

    Integers of 32 bits and floats have no range: white may be 1, 255, 4095 or anything else.
    """
    if image.mode not in _MODES and not _is_deep(image):
        raise InputError(
            f"pixels of mode {image.mode} are not 8 bits a channel, nor grey of 16; convert them"
        )


def _is_deep(image: "Image.Image") -> bool:
    # Pillow has 16 bits of a PGM, and before version 11 of a PNG, as integers of 32.
    return image.mode in _DEEP or (image.mode == "I" and image.format in ("PNG", "PPM"))


def to_rgb(image: "Image.Image", noted: Callable[[str], None]) -> "Image.Image":
    """Returns a photo as RGB of 8 bits: transparency on white, of 16 bits the upper 8.

    Args:
      image: The photo, of a mode that `check_mode` lets pass.
      noted: Called with each change that loses something, such as `TRANSPARENT`.
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
    """Returns grey of 16 bits as Pillow has 16-bit RGB; the value that is transparent stays so."""
    image_module, _ = pillow()
    values = np.asarray(image)
    grey = image_module.fromarray((values >> 8).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is None:
        return grey
    alpha = image_module.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return image_module.merge("LA", (grey, alpha))


def has_several_pictures(image: "ImageFile.ImageFile") -> bool:
    """Returns whether a GIF, PNG, WebP or TIFF has pictures after its first; moves to the second.

    Phones put previews and depths behind the one picture of a JPEG: these are none that are lost.
    """
    if image.format not in ("GIF", "PNG", "WEBP", "TIFF"):
        return False
    try:
        image.seek(1)
    except Exception:  # there is none, or none that can be read, which takes nothing from the first
        return False
    return True
