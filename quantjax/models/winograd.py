"""Convolves with 3x3 kernels and stride 1 by Winograd's algorithm, fast on CPUs.

It takes 16 products for 2x2 pixels of the result; a direct convolution takes 36. The images are cut
into tiles of 4x4 pixels that overlap by 2. Sums of a tile's pixels are multiplied by sums of the
kernel's entries, as matrices over the channels; sums of these products are 2x2 pixels of the
result. `experiments/benchmarks/convolutions.py` measures the gain over the compiler's convolution.

Reference:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

VALUES = 2**18  # tiles times channels processed at once: their sums stay in the CPU's cache
_OF_IMAGES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_KERNELS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))

Grid = list[list[Any]]


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel, stride 1 and zero padding of 1.

    Results are exact up to some units in the last place of float32.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, C'].

    Returns:
      [B, H, W, C'].
    """
    return _convolve(x, _transform(_OF_KERNELS, list(kernel)))


def _convolve(x, filters):
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
    rows = x.reshape(-1, x.shape[-1]) @ matrix
    return rows.reshape(*x.shape[:-1], -1)


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(kept, gradient):
    x, kernel = kept
    filters = _transform(_OF_KERNELS, list(kernel))
    reverse = (3, 1, 2, 0)  # the sums of a kernel that is read backwards
    of_images = [[filters[i][j].T for j in reverse] for i in reverse]
    return _convolve(gradient, of_images), _gradient_of_kernel(x, gradient)


convolve.defvjp(_forward, _backward)


def _gradient_of_kernel(x, gradient):
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
    return in_parts(x, VALUES * 4 // (channels * x.shape[1] * x.shape[2]))


def in_parts(x: jax.Array, most: int) -> jax.Array:
    """Cuts a batch into equal parts that are processed one after the other.

    Args:
      x: [B, ...].
      most: Largest number of rows of a part; below 1 it counts as 1.

    Returns:
      [b, B / b, ...], where part i is [:, i]. If B is sharded over devices, every part is sharded
      over the same devices.
    """
    rows = len(x)
    size = max(size for size in range(1, min(max(most, 1), rows) + 1) if rows % size == 0)
    return x.reshape(size, rows // size, *x.shape[1:])
