"""Convolves fast on CPUs, where the compiler's own convolution is slow; `layers` chooses it.

`winograd` takes 3x3 kernels of stride 1, `strided` has a fast gradient of the kernel for larger
strides, and `depthwise` convolves every channel separately. In `experiments/benchmarks`,
`convolutions.py` and `depthwise.py` measure the gain.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

VALUES = 2**18  # tiles times channels processed at once: their sums stay in the CPU's cache
PIXELS = 2048  # pixels of results that are processed at once, for the same reason
# The transforms of F(2x2, 3x3) in the paper: B^T, G and A^T.
_OF_IMAGES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_KERNELS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))

Grid = list[list[Any]]


@jax.custom_vjp
def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel, stride 1 and zero padding of 1, by Winograd's algorithm.

    It takes 16 products for 2x2 pixels of the result; a direct convolution takes 36. The images are
    cut into tiles of 4x4 pixels that overlap by 2. Sums of a tile's pixels are multiplied by sums
    of the kernel's entries, as matrices over the channels; sums of these products are 2x2 pixels of
    the result. Results are exact up to some units in the last place of float32.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, C'].

    Returns:
      [B, H, W, C'].

    Reference:
      Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016,
      arXiv:1509.09308.
    """
    return _by_tiles(x, _transform(_OF_KERNELS, list(kernel)))


def _by_tiles(x, filters):
    def pixels(x):
        sums = _transform(_OF_IMAGES, _tiles(x))
        return _joined(_transform(_OF_PRODUCTS, jax.tree.map(_product, sums, filters)))

    x, height, width = _even(x), *x.shape[1:3]
    parts = _parts(x, sum(filters[0][0].shape))

    def step(i, y):
        return lax.dynamic_update_index_in_dim(y, pixels(parts[:, i]), i, 1)

    # Part by part, so that the sums of a part stay in the CPU's cache.
    none = jnp.zeros((*parts.shape[:4], filters[0][0].shape[1]), x.dtype)
    y = lax.fori_loop(0, parts.shape[1], step, none)
    return y.reshape(*x.shape[:3], -1)[:, :height, :width]


def _product(x, matrix):
    # One product of matrices over the channels, for all tiles at once.
    rows = x.reshape(-1, x.shape[-1]) @ matrix
    return rows.reshape(*x.shape[:-1], -1)


def _winograd_forward(x, kernel):
    return winograd(x, kernel), (x, kernel)


def _winograd_backward(kept, gradient):
    x, kernel = kept
    filters = _transform(_OF_KERNELS, list(kernel))
    reverse = (3, 1, 2, 0)  # the sums of a kernel that is read backwards
    of_images = [[filters[i][j].T for j in reverse] for i in reverse]
    return _by_tiles(gradient, of_images), _winograd_kernel_gradient(x, gradient)


winograd.defvjp(_winograd_forward, _winograd_backward)


def _winograd_kernel_gradient(x, gradient):
    channels = x.shape[3] + gradient.shape[3]
    parts, of_parts = (_parts(_even(images), channels) for images in (x, gradient))

    def add(total, x, gradient):
        return total + x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])

    def step(i, total):
        # The gradient runs the transforms backwards, so their matrices are transposed.
        sums = _transform(_OF_IMAGES, _tiles(parts[:, i]))
        of_products = _transform(_transposed(_OF_PRODUCTS), _pixels(of_parts[:, i]))
        return jax.tree.map(add, total, sums, of_products)

    none = jnp.zeros((x.shape[3], gradient.shape[3]), x.dtype)
    total = lax.fori_loop(0, parts.shape[1], step, [[none] * 4] * 4)
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_OF_KERNELS), total)])


def _transform(matrix, grid) -> Grid:
    """Returns the product matrix grid matrix^T, for a grid whose entries are arrays."""
    columns = [_sums(matrix, column) for column in zip(*grid, strict=True)]
    return [_sums(matrix, row) for row in zip(*columns, strict=True)]


def _sums(matrix, terms):
    # Entries of 0 cost nothing, and the first term is not added to a zero.
    rows = ([(c, term) for c, term in zip(row, terms, strict=True) if c] for row in matrix)
    return [functools.reduce(operator.add, [c * term for c, term in row]) for row in rows]


def _transposed(matrix):
    return tuple(zip(*matrix, strict=True))


def _tiles(x) -> Grid:
    """Returns the 4x4 pixels of the tiles around all 2x2 blocks, each [B, H / 2, W / 2, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [[x[:, i : i + height : 2, j : j + width : 2] for j in range(4)] for i in range(4)]


def _pixels(y) -> Grid:
    """Returns the 2x2 pixels of all blocks, each [B, H / 2, W / 2, C]."""
    return [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]


def _joined(grid):
    """Joins the 2x2 pixels of all blocks into images; undoes `_pixels`."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    rows, height, _, width, _, channels = y.shape
    return y.reshape(rows, 2 * height, 2 * width, channels)


def _even(x):
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def _parts(x, channels):
    return _in_parts(x, VALUES * 4 // (channels * x.shape[1] * x.shape[2]))


def _in_parts(x, most):
    """Cuts a batch [B, ...] into [b, B / b, ...], with b at most `most` but at least 1.

    Part i is [:, i]. If B is sharded over devices, every part is sharded over the same devices.
    """
    rows = len(x)
    size = max(size for size in range(1, min(max(most, 1), rows) + 1) if rows % size == 0)
    return x.reshape(size, rows // size, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    """Convolves with a stride and zero padding of half the kernel's side, rounded down.

    For the gradient of the kernel, the compiler's convolution first transposes the images, so that
    the batch becomes the channels. Here each tap of the kernel takes one product of the shifted
    images, untransposed.

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


def _strided_forward(x, kernel, strides):
    return strided(x, kernel, strides), (x, kernel)


def _strided_backward(strides, kept, gradient):
    x, kernel = kept
    # Only the kernel's gradient is slow in the compiler; the images' gradient is left to it.
    (of_images,) = jax.linear_transpose(lambda x: _compilers(x, kernel, strides), x)(gradient)
    return of_images, _strided_kernel_gradient(x, len(kernel), gradient, strides)


strided.defvjp(_strided_forward, _strided_backward)


def _strided_kernel_gradient(x, size, gradient, strides):
    around = (size // 2,) * 2
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    height, width, channels = gradient.shape[1:]
    # In parts, so that the images of a part stay in the CPU's cache for all taps.
    most = PIXELS // (height * width)
    parts, of_parts = _in_parts(x, most), _in_parts(gradient, most)

    def step(part, totals):
        image, of_image = parts[:, part], of_parts[:, part].reshape(-1, channels)
        return [
            total + image[tap].reshape(-1, x.shape[3]).T @ of_image
            for total, tap in zip(totals, _taps(size, height, width, strides), strict=True)
        ]

    none = jnp.zeros((x.shape[3], channels), x.dtype)
    totals = lax.fori_loop(0, parts.shape[1], step, [none] * size**2)
    return jnp.stack(totals).reshape(size, size, *none.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    """Convolves each channel with its own filter, padded as TensorFlow's "SAME".

    Adds up shifted images, one for every tap of the kernel, which compiles to one pass over the
    pixels.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C].
      strides: Stride in both directions.

    Returns:
      [B, ceil(H / strides), ceil(W / strides), C].
    """
    taps = _taps(len(kernel), -(-x.shape[1] // strides), -(-x.shape[2] // strides), strides)
    x = jnp.pad(x, _same_padding(x.shape, len(kernel), strides))
    weights = kernel.reshape(-1, kernel.shape[3])
    return sum(x[tap] * weight for tap, weight in zip(taps, weights, strict=True))


def _depthwise_forward(x, kernel, strides):
    return depthwise(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, kept, gradient):
    x, kernel = kept
    return (
        _depthwise_image_gradient(x.shape, kernel, gradient, strides),
        _depthwise_kernel_gradient(x, len(kernel), gradient, strides),
    )


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_image_gradient(shape, kernel, gradient, strides):
    # The transposed convolution: gradients are spread out by the stride, and filters are reversed.
    size = len(kernel)
    room = [(0, 0, 0)] * 4
    for axis, (low, _) in enumerate(_same_padding(shape, size, strides)):
        if axis in (1, 2):
            spread = (gradient.shape[axis] - 1) * strides + 1
            room[axis] = (size - 1 - low, shape[axis] + low - spread, strides - 1)
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), room)
    total = 0
    for i in range(size):
        for j in range(size):
            top, left = size - 1 - i, size - 1 - j
            view = spread[:, top : top + shape[1], left : left + shape[2]]
            total = total + view * kernel[i, j, 0]
    return total


def _depthwise_kernel_gradient(x, size, gradient, strides):
    # Image by image, so that the image stays in the CPU's cache for all taps.
    taps = _taps(size, *gradient.shape[1:3], strides)

    def add(total, pair):
        image, of_image = pair
        sums = [jnp.sum(image[tap[1:]] * of_image, (0, 1), jnp.float32) for tap in taps]
        return total + jnp.stack(sums), None

    none = jnp.zeros((size * size, x.shape[3]), jnp.float32)
    padded = jnp.pad(x, _same_padding(x.shape, size, strides))
    total, _ = lax.scan(add, none, (padded, gradient))
    return total.reshape(size, size, 1, -1).astype(gradient.dtype)


def _same_padding(shape, size, strides):
    """Returns the padding of images [B, H, W, C] that TensorFlow calls "SAME"."""
    padding = []
    for length in shape[1:3]:
        room = max((-(-length // strides) - 1) * strides + size - length, 0)
        padding.append((room // 2, room - room // 2))
    return [(0, 0), *padding, (0, 0)]


def _taps(size, height, width, strides):
    """Returns for each tap of a kernel the slice of padded images that it multiplies.

    Height and width are those of the result.
    """
    return [
        (
            slice(None),
            slice(i, i + (height - 1) * strides + 1, strides),
            slice(j, j + (width - 1) * strides + 1, strides),
        )
        for i in range(size)
        for j in range(size)
    ]
