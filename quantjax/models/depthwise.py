"""Convolves every channel separately (depthwise), fast on CPUs.

The compiler's grouped convolution is many times slower on CPUs, see
`experiments/benchmarks/depthwise.py`. Adding up shifted images, one for every tap of the kernel,
compiles to one pass over the pixels.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx


class DepthwiseConv(nnx.Module):
    """Convolves each channel with its own square filter, padding "SAME", without bias.

    The kernel has the layout of `nnx.Conv`: [k, k, 1, C].
    """

    def __init__(self, channels: int, size: int, *, strides: int, kernel_init, rngs: nnx.Rngs):
        shape = (size, size, 1, channels)
        self.strides = strides
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to [B, ceil(H / strides), ceil(W / strides), C]."""
        return depthwise(x, self.kernel[...], strides=self.strides)


def depthwise(x: jax.Array, kernel: jax.Array, *, strides: int) -> jax.Array:
    """Convolves each channel with its own filter, padded as TensorFlow's "SAME".

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C].
      strides: Stride in both directions.

    Returns:
      [B, ceil(H / strides), ceil(W / strides), C].
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, strides=strides),
        default=functools.partial(grouped, strides=strides),
    )


def grouped(x: jax.Array, kernel: jax.Array, *, strides: int) -> jax.Array:
    """Computes the same as `depthwise` by the compiler's grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        "SAME",
        feature_group_count=x.shape[3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _shifted(x, kernel, *, strides):
    return _sum_of_shifts(x, kernel, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum_of_shifts(x, kernel, strides):
    padded, views = _views(x.shape, kernel.shape[0], strides)
    x = jnp.pad(x, padded)
    taps = kernel.reshape(-1, kernel.shape[3])
    return sum(x[view] * tap for view, tap in zip(views, taps, strict=True))


def _forward(x, kernel, strides):
    return _sum_of_shifts(x, kernel, strides), (x, kernel)


def _backward(strides, kept, gradient):
    x, kernel = kept
    size = kernel.shape[0]
    return _gradient_of_images(x.shape, kernel, gradient, strides), _gradient_of_kernel(
        x, size, gradient, strides
    )


_sum_of_shifts.defvjp(_forward, _backward)


def _gradient_of_images(shape, kernel, gradient, strides):
    # The transposed convolution: gradients are spread out by the stride, and filters are reversed.
    size = kernel.shape[0]
    padded, _ = _views(shape, size, strides)
    spread = jax.lax.pad(
        gradient,
        jnp.zeros((), gradient.dtype),
        (
            (0, 0, 0),
            *(_room(shape[a], size, gradient.shape[a], strides) for a in (1, 2)),
            (0, 0, 0),
        ),
    )
    top, left = padded[1][0], padded[2][0]
    total = 0
    for i in range(size):
        for j in range(size):
            rows = slice(size - 1 - i + top, size - 1 - i + top + shape[1])
            columns = slice(size - 1 - j + left, size - 1 - j + left + shape[2])
            total = total + spread[:, rows, columns] * kernel[i, j, 0]
    return total


def _gradient_of_kernel(x, size, gradient, strides):
    # Image by image, so that the image stays in the CPU's cache for all taps.
    padded, views = _views(x.shape, size, strides)

    def add(total, pair):
        image, of_image = pair
        sums = [
            jnp.sum(image[view[1:]] * of_image, axis=(0, 1), dtype=jnp.float32) for view in views
        ]
        return total + jnp.stack(sums), None

    none = jnp.zeros((size * size, x.shape[3]), jnp.float32)
    total, _ = jax.lax.scan(add, none, (jnp.pad(x, padded), gradient))
    return total.reshape(size, size, 1, -1).astype(gradient.dtype)


def _views(shape, size, strides):
    """Returns the padding of images, and for each tap its slice of the padded images."""
    padded, outs = [(0, 0)], []
    for length in shape[1:3]:
        out = -(-length // strides)
        room = max((out - 1) * strides + size - length, 0)
        padded.append((room // 2, room - room // 2))
        outs.append((out - 1) * strides + 1)
    views = [
        (slice(None), slice(i, i + outs[0], strides), slice(j, j + outs[1], strides))
        for i in range(size)
        for j in range(size)
    ]
    return [*padded, (0, 0)], views


def _room(length, size, out, strides):
    """Returns the low, high and interior padding of the gradient for `_gradient_of_images`."""
    spread = (out - 1) * strides + 1
    widest = length + max((out - 1) * strides + size - length, 0) + size - 1
    return size - 1, widest - spread - (size - 1), strides - 1
