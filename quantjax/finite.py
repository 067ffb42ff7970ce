"""Checks that numbers are finite or positive, outside of jit."""

import jax
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)


def check_finite(name: str, x: jax.Array | np.ndarray, mask: jax.Array | None = None) -> None:
    """Raises ValueError if an array holds NaN, infinity or a number beyond float32's range.

    Under `jit`, `vmap` or `grad` the values are unknown, and the check passes. It also passes for
    an array of which this process holds only a part.

    Args:
      name: Name of the array in the message.
      x: Numbers of any shape and type; rows are along the first axis.
      mask: Entries to check, bool of x's shape or of its leading axes; all when None.

    Raises:
      ValueError: with the array's name, the first bad row and the number of bad rows.
    """
    if not can_be_seen(x) or not can_be_seen(mask):
        return
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return
    # A float64 beyond float32's range becomes infinite as soon as JAX converts it.
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
    """Raises ValueError if a number, such as a temperature, is not above 0 or not finite.

    Args:
      name: Name of the number in the message.
      value: A number or an array of numbers; a traced value always passes.

    Raises:
      ValueError: with the number's name and value.
    """
    if can_be_seen(value) and not np.all((np.asarray(value) > 0) & np.isfinite(np.asarray(value))):
        raise InputError(f"{name} must be above 0 and finite, got {value}")


def can_be_seen(x: jax.Array | np.ndarray | float | None) -> bool:
    """Returns whether this process can read all values of an array now.

    Args:
      x: An array, a number or None.

    Returns:
      False for a tracer, and for an array that is partly on other processes' devices.
    """
    return not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)
