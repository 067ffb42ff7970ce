"""Chooses a convolution's implementation: the compiler's, or on CPUs a faster one of ours."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from quantjax.models import strided, winograd

_CHANNELS = 32  # with fewer channels our convolutions are slower


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> jax.Array:
    """Convolves as `lax.conv_general_dilated` does, but faster on CPUs for common kernels.

    Pass it to `nnx.Conv(conv_general_dilated=...)`. On a CPU `winograd` computes 3x3 kernels of
    stride 1, and `strided` computes 1x1 and 3x3 kernels of larger strides. Both need padding of
    half the kernel's side, no groups or dilation, float32 and at least 32 channels. Other
    convolutions and other platforms use the compiler's convolution.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C / groups, C'].
      window_strides: As in `lax.conv_general_dilated`.
      padding: As in `lax.conv_general_dilated`.
      **options: As in `lax.conv_general_dilated`.
    """
    compilers = functools.partial(
        lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options
    )
    ours = _ours(kernel.shape[:2], window_strides, padding)
    if ours is None or not _plain(x, kernel, **options):
        return compilers(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=ours, default=compilers)


def _ours(size, strides, padding):
    if size not in ((1, 1), (3, 3)) or len(set(strides)) > 1:
        return None
    half = size[0] // 2
    if strides[0] == 1:
        around = padding == "SAME" or _is_pairs(padding, half)
        return winograd.convolve if half and around else None
    if not _is_pairs(padding, half):
        return None
    return functools.partial(_by_strides, strides=strides[0])


def _by_strides(x, kernel, *, strides):
    return strided.convolve(x, kernel, strides)


def _is_pairs(padding, half):
    return [tuple(side) for side in padding] == [(half, half)] * 2


def _plain(x, kernel, **options):
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    return (
        x.ndim == 4
        and x.dtype == kernel.dtype == jnp.float32
        and options.get("feature_group_count", 1) == 1
        and set(dilations) <= {1}
        and min(kernel.shape[2:]) >= _CHANNELS
    )
