"""Prepares photo files for an encoder, as its training data was prepared."""

import pathlib
from typing import NamedTuple

import numpy as np

from quantjax.run.paths import user_path


class Preparation(NamedTuple):
    """Steps from a photo file to a row: upright, white behind transparent pixels, square, mode.

    Attributes:
      size: Height and width in pixels of the central square, as `data.image_folder` resizes it;
        None takes photos as they are, which must then have the row's size.
      mode: "RGB", or "L" for grey.
    """

    size: int | None = None
    mode: str = "RGB"

    def read(self, path: str | pathlib.Path) -> np.ndarray:
        """Reads a photo file as pixels [H, W, 3] uint8, or [H, W, 1] for grey.

        Raises:
          ModuleNotFoundError: if Pillow is not installed.
          ValueError: if the photo is unreadable; one line names it.
        """
        # Imported now: an encoder of arrays needs no reader of photos.
        from quantjax.data.decoding import decode

        path = user_path(path)
        return decode(path, path, size=self.size, mode=self.mode)
