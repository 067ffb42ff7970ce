"""Times convolutions of ResNet-18 at 32 pixels and of AlexNet: quantjax, XLA and torch.

    python -m experiments.benchmarks.convolutions

Forward, gradient of the images, gradient of the kernel, each by itself. The peer is the compiler's
own, which a flax network would run; torch's, the faster of its two layouts, is beside it. Where a
kernel steps over pixels, only its gradient is not the compiler's.

Without gain: at stride 1, the kernel's gradient as nine products of shifted images, or as one
product of all of them side by side, whole or in parts; forward passes of strided kernels, and of
few channels, by either; the compiler's flags for libraries of kernels.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from quantjax.models.layers import conv_general_dilated

from . import timing

_BATCH = 32
_LAYERS = (
    (32, 64, 64, 3, 1),
    (16, 128, 128, 3, 1),
    (8, 256, 256, 3, 1),
    (4, 512, 512, 3, 1),
    (32, 64, 128, 3, 2),
    (32, 64, 128, 1, 2),
    (16, 128, 256, 3, 2),
    (16, 128, 256, 1, 2),
    (13, 192, 384, 3, 1),
)
"""Side of the image, channels in and out, side of the kernel, strides."""
_BAR = 1.0


def layer(
    side: int, depth: int, channels: int, size: int, strides: int, seconds: float
) -> Iterator[timing.Timing]:
    """Times a convolution layer against XLA and torch.

    Args:
      side: Height and width of the image.
      depth: C.
      channels: C'.
      size: Side of the kernel.
      strides: In both directions.
      seconds: How long each comparison is timed.

    Yields:
      Forward, gradient of images, gradient of the kernel.
    """
    torch = importlib.import_module("torch")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_BATCH, side, side, depth)).astype(np.float32)
    kernel = rng.normal(size=(size, size, depth, channels)).astype(np.float32)
    options = {
        "window_strides": (strides, strides),
        "padding": [(size // 2, size // 2)] * 2,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    ours, compilers = (
        _passes(functools.partial(convolve, **options), jnp.asarray(x), jnp.asarray(kernel))
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    peers = [
        _torchs(torch, x, kernel, strides, layout)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    for part, name in enumerate(("forward", "images", "kernel")):
        functions = [passes[part] for passes in (ours, compilers, *peers)]
        mine, compiler, *others = timing.side_by_side(functions, seconds=seconds)
        yield timing.Timing(
            f"{side}x{side}x{depth}->{channels} k={size} s={strides} {name}",
            mine,
            compiler,
            "XLA",
            _BAR,
            f"torch {1e3 * min(others):.2f} ms, {min(others) / mine:.2f} of ours",
        )


def _passes(convolve, x, kernel):
    gradient = jax.jit(convolve)(x, kernel)
    images = jax.jit(lambda x, k, g: jax.vjp(lambda x: convolve(x, k), x)[1](g))
    kernels = jax.jit(lambda x, k, g: jax.vjp(lambda k: convolve(x, k), k)[1](g))
    return [
        functools.partial(lambda f, *a: jax.block_until_ready(f(*a)), *call)
        for call in (
            (jax.jit(convolve), x, kernel),
            (images, x, kernel, gradient),
            (kernels, x, kernel, gradient),
        )
    ]


def _torchs(torch, x, kernel, strides, layout):
    images = torch.from_numpy(np.moveaxis(x, 3, 1).copy()).contiguous(memory_format=layout)
    filters = torch.from_numpy(np.moveaxis(kernel, (3, 2), (0, 1)).copy())
    filters = filters.contiguous(memory_format=layout)
    half = kernel.shape[0] // 2

    def forward():
        return torch.nn.functional.conv2d(images, filters, stride=strides, padding=half)

    gradient = forward()

    def backward(*which):
        sizes = [strides] * 2, [half] * 2, [1, 1], False, [0, 0], 1
        torch.ops.aten.convolution_backward(gradient, images, filters, None, *sizes, which)

    return [
        forward,
        functools.partial(backward, True, False, False),
        functools.partial(backward, False, True, False),
    ]


def main() -> None:
    """Runs the layers named on the command line, all by default."""
    cases = {
        f"{side}x{depth}-{channels}-k{size}-s{strides}": functools.partial(
            layer, side, depth, channels, size, strides
        )
        for side, depth, channels, size, strides in _LAYERS
    }
    timing.run_cases(__doc__, cases, peers=f"torch {importlib.metadata.version('torch')}")


if __name__ == "__main__":
    main()
