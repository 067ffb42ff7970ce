"""Defines layers that compute as flax's do: fast convolutions on CPUs, and batch normalisation.

Convolutions are chosen here alone: the compiler's, or on CPUs those of `cpu_convolution`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from quantjax.models import cpu_convolution

_CHANNELS = 32  # with fewer channels our convolutions are slower


class BatchNorm(nnx.BatchNorm):
    """Applies batch normalisation in float32 and returns the type of its input.

    Flax's BatchNorm returns float32 for bfloat16 inputs, because its statistics are float32, and
    all later layers would then compute in float32.
    """

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes [..., C] by the statistics of the batch, or by the running statistics."""
        return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)


class DepthwiseConv(nnx.Module):
    """Convolves each channel with its own square filter, padding "SAME", without bias.

    The kernel has the layout of `nnx.Conv`: [k, k, 1, C].
    """

    def __init__(self, channels: int, size: int, *, strides: int, kernel_init, rngs: nnx.Rngs):
        shape = (size, size, 1, channels)
        self.strides = strides
        # Float32 in any precision: `in_precision` rounds params at the call.
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to [B, ceil(H / strides), ceil(W / strides), C]."""
        return depthwise(x, self.kernel[...], strides=self.strides)


def depthwise(x: jax.Array, kernel: jax.Array, *, strides: int) -> jax.Array:
    """Convolves each channel with its own filter, padded as TensorFlow's "SAME".

    The compiler's grouped convolution is many times slower on CPUs, see
    `experiments/benchmarks/depthwise.py`.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C].
      strides: Stride in both directions.

    Returns:
      [B, ceil(H / strides), ceil(W / strides), C].
    """
    ours = functools.partial(cpu_convolution.depthwise, strides=strides)
    compilers = functools.partial(grouped, strides=strides)
    return lax.platform_dependent(x, kernel, cpu=ours, default=compilers)


def grouped(x: jax.Array, kernel: jax.Array, *, strides: int) -> jax.Array:
    """Computes the same as `depthwise` by the compiler's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        "SAME",
        feature_group_count=x.shape[3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> jax.Array:
    """Convolves as `lax.conv_general_dilated` does, but faster on CPUs for common kernels.

    Pass it to `nnx.Conv(conv_general_dilated=...)`. On a CPU `cpu_convolution` computes 3x3 kernels
    of stride 1, and 1x1 and 3x3 kernels of larger strides. Both need padding of half the kernel's
    side, no groups or dilation, float32 and at least 32 channels. Other convolutions and other
    platforms use the compiler's convolution.

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
    if ours is None or not _is_plain(x, kernel, **options):
        return compilers(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=ours, default=compilers)


def _ours(size, strides, padding):
    """Returns our convolution for a kernel's size, strides and padding, or None."""
    if size not in ((1, 1), (3, 3)) or len(set(strides)) > 1:
        return None
    half = size[0] // 2
    is_half = padding != "SAME" and [tuple(side) for side in padding] == [(half, half)] * 2
    if strides[0] == 1:
        # A 1x1 kernel of stride 1 is one product of matrices, which the compiler makes fast.
        return cpu_convolution.winograd if half and (is_half or padding == "SAME") else None
    if not is_half:
        return None
    return functools.partial(cpu_convolution.strided, strides=strides[0])


def _is_plain(x, kernel, **options):
    # Flax passes dilations of 1, or None, for a plain convolution.
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    return (
        x.ndim == 4
        and x.dtype == kernel.dtype == jnp.float32
        and options.get("feature_group_count", 1) == 1
        and set(dilations) <= {1}
        and min(kernel.shape[2:]) >= _CHANNELS
    )
