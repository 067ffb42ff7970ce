"""Convolves with strides above 1, with a fast gradient of the kernel on CPUs.

For that gradient the compiler's convolution first transposes the images, so that the batch becomes
the channels. Here each tap of the kernel takes one product of the shifted images, untransposed.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from quantjax.models.winograd import in_parts

PIXELS = 2048  # pixels of results that are processed at once


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    """Convolves with a stride and zero padding of half the kernel's side, rounded down.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, C'].
      strides: Stride in both directions.

    Returns:
      [B, (H + 2 (k // 2) - k) // strides + 1, ..., C'].
    """
    return _compilers(x, kernel, strides)


def _compilers(x, kernel, strides):
    half = len(kernel) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(half, half), (half, half)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x, kernel, strides):
    return convolve(x, kernel, strides), (x, kernel)


def _backward(strides, kept, gradient):
    x, kernel = kept
    # Only the kernel's gradient is slow in the compiler; the images' gradient is left to it.
    (of_images,) = jax.linear_transpose(lambda x: _compilers(x, kernel, strides), x)(gradient)
    return of_images, _gradient_of_kernel(x, len(kernel), gradient, strides)


convolve.defvjp(_forward, _backward)


def _gradient_of_kernel(x, size, gradient, strides):
    around = (size // 2,) * 2
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    height, width, channels = gradient.shape[1:]
    # In parts, so that the images of a part stay in the CPU's cache for all taps.
    most = PIXELS // (height * width)
    parts, of_parts = in_parts(x, most), in_parts(gradient, most)

    def step(part, totals):
        image, of_image = parts[:, part], of_parts[:, part].reshape(-1, channels)
        views = [
            image[
                :,
                i : i + (height - 1) * strides + 1 : strides,
                j : j + (width - 1) * strides + 1 : strides,
            ]
            for i in range(size)
            for j in range(size)
        ]
        return [
            total + view.reshape(-1, x.shape[3]).T @ of_image
            for total, view in zip(totals, views, strict=True)
        ]

    none = jnp.zeros((x.shape[3], channels), x.dtype)
    totals = lax.fori_loop(0, parts.shape[1], step, [none] * size**2)
    return jnp.stack(totals).reshape(size, size, *none.shape)
