"""Refuses NaN, infinity and numbers that are not above 0, wherever the values can be seen."""

import jax
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)


def check_finite(name: str, x: jax.Array | np.ndarray, mask: jax.Array | None = None) -> None:
    """Refuses NaN, infinity and numbers beyond float32, naming the first row that holds one.

    Under `jit`, `vmap` or `grad` the values cannot be seen, and nothing is refused. The same holds
    for an array of which this process has only a part.

    Args:
      name: What the array is called in the message.
      x: Numbers of any shape and type; rows are along the first axis.
      mask: Which of them count, bool of x's shape or of its leading axes; all when None.

    Raises:
      ValueError: naming the array, the first such row, and how many rows are so.
    """
    if not can_be_seen(x) or not can_be_seen(mask):
        return
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return
    finite = np.isfinite(x) if x.dtype.itemsize <= 4 else np.abs(x) <= _LARGEST
    if finite.all():
        return
    bad = ~finite
    if mask is not None:
        bad = bad & np.asarray(mask, bool).reshape(np.shape(mask) + (1,) * (x.ndim - np.ndim(mask)))
    places = np.argwhere(bad)
    if not len(places):
        return
    value = "NaN" if np.isnan(x[tuple(places[0])]) else f"{x[tuple(places[0])]}"
    rows = len(np.unique(places[:, 0])) if x.ndim else 1
    where = f" in row {places[0][0]} ({rows} of {len(x)} rows)" if x.ndim else ""
    raise InputError(
        f"{name} must be numbers, got {value}{where}: look for a diverged loss, or for "
        "numbers that float16 or float32 cannot hold"
    )


def check_positive(name: str, value: jax.Array | np.ndarray | float) -> None:
    """Refuses a number that is not above 0, such as a temperature, or not finite.

    Args:
      name: What the number is called in the message.
      value: A number, or an array of them; a traced value is not seen.

    Raises:
      ValueError: naming the number.
    """
    if can_be_seen(value) and not np.all((np.asarray(value) > 0) & np.isfinite(np.asarray(value))):
        raise InputError(f"{name} must be above 0 and finite, got {value}")


def can_be_seen(x: jax.Array | np.ndarray | float | None) -> bool:
    """Returns whether this process can look at an array's values now.

    Args:
      x: An array, a number or None.

    Returns:
      False for a tracer, and for an array that other processes hold parts of.
    """
    return not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)
