"""Makes a data source from a list of photo files, with or without labels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from quantjax.data.arrays import as_multi_hot
from quantjax.data.photos import Photos, check_size
from quantjax.errors import InputError


def from_photos(
    paths: Iterable[str | Path],
    label: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
    size: int | None = None,
) -> Photos:
    """Makes a data source from a list of photo files, read as RGB in the order given.

    The photos need neither class folders nor labels.

    Args:
      paths: N files, such as `sorted(Path("photos").rglob("*.jpg"))`.
      label: Class ids [N], or one-hot or multi-hot rows [N, L]; None where the photos have no
        labels, see `from_arrays`.
      classes: Names of the L classes.
      size: Height and width in pixels, see `image_folder`; None takes photos of one size as they
        are.

    Raises:
      ModuleNotFoundError: if Pillow is not installed.
      ValueError: if there is no path, labels do not fit, sizes are mixed, or (here or when rows are
        requested) a photo is unreadable.
    """
    files = tuple(Path(path).expanduser() for path in paths)
    if not files:
        raise InputError("paths must name a photo at least, got none")
    labels, names = as_multi_hot(label, num_rows=len(files), classes=classes)
    check_size(files, size)
    return Photos(files, labels, names, size)
