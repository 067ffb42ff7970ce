"""Argument checks of the plots, before any drawing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from quantjax.arrays import check_finite
from quantjax.errors import InputError


def numbers(name: str, x: ArrayLike, shape: str, *, finite: bool = True) -> np.ndarray:
    """Returns an array as float64, after checking its axes and values.

    Args:
      name: Name of the array in the error message.
      x: Real numbers or bools.
      shape: Required shape, such as "[Q, N]"; only the number of axes is checked.
      finite: Whether NaN and infinity raise ValueError.

    Returns:
      The array on the host, not empty.

    Raises:
      ValueError: if the number of axes differs, the array is empty, or it holds no real numbers.
    """
    found = np.asarray(x)
    if found.ndim != shape.count(",") + 1 or not found.size:
        raise InputError(f"{name} must have shape {shape} and not be empty, got {found.shape}")
    if found.dtype.kind in "cOSUMm":
        raise InputError(f"{name} must be real numbers, got {found.dtype}")
    found = found.astype(np.float64)
    if finite:
        check_finite(name, found)
    return found


def same_shape(name: str, x: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Raises ValueError if two arrays differ in shape."""
    if x.shape != other.shape:
        raise InputError(
            f"{name} must have the shape of {other_name}, {other.shape}, got {x.shape}"
        )


def names(name: str, given: Sequence[str], number: int) -> list[str]:
    """Returns names as strings; raises ValueError if their number differs from `number`."""
    if isinstance(given, str) or len(given) != number:
        raise InputError(f"{name} must be {number} names, got {given!r:.80}")
    return [str(each) for each in given]


def within_0_and_1(name: str, x: np.ndarray) -> None:
    """Raises ValueError if a number is not from 0 to 1; NaN passes."""
    # A mean of float32 may be one rounding above 1.
    if (x < -1e-6).any() or (x > 1 + 1e-6).any():
        raise InputError(f"{name} must be from 0 to 1, got {np.nanmin(x):g} to {np.nanmax(x):g}")
