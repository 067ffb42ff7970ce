"""Prepares rows for quantizers: float32, finite, and zero where masked."""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite
from quantjax.errors import InputError


def floating(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype of quantized rows: the rows' own dtype, or float32 for integers.

    Args:
      dtype: Dtype of the rows.
    """
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)


def counted(x: jax.Array, mask: jax.Array | None, name: str = "x") -> tuple[jax.Array, jax.Array]:
    """Returns the rows as float32 with masked rows set to zero, and the mask.

    Values are selected and not multiplied by a weight, because 0 times NaN is NaN.

    Args:
      x: Rows [N, D] of any type.
      mask: Whether each row counts, [N] bool; all when None.
      name: Name of `x` in the error message.

    Returns:
      Rows [N, D] float32 and mask [N] bool.

    Raises:
      ValueError: if the mask has another shape, or a row that counts holds NaN or infinity.
    """
    if mask is not None and mask.shape != x.shape[:1]:
        raise InputError(f"mask must have shape {x.shape[:1]}, got {mask.shape}")
    check_finite(name, x, mask)
    x = jnp.asarray(x, jnp.float32)
    if mask is None:
        return x, jnp.ones(x.shape[0], bool)
    mask = jnp.asarray(mask, bool)
    return jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), mask
