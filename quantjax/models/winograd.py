"""3x3 convolutions of stride 1, quick on CPUs: 16 products give 2x2 pixels, which else take 36.

The images are cut into tiles of 4x4 pixels that overlap by 2; sums of their pixels are multiplied
with sums of the kernel's, channels by channels, and sums of the products are 2x2 pixels of the
result. `experiments/benchmarks/training.py` says what that gains over the compiler's convolution.

Reference:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_TILES = 2048  # worked on at once: their sums stay in the cache
_CHANNELS = 32  # with fewer, the sums take longer than the products they save
_OF_IMAGES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_KERNELS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))

Grid = list[list[Any]]


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> jax.Array:
    """Convolves as `lax.conv_general_dilated` does; for `nnx.Conv(conv_general_dilated=...)`.

    On a CPU `convolve` does what it can: 3x3, stride 1, padding 1, one group, float32 and no few
    channels. All else, and other platforms, have the compiler's own.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C / groups, C'].
      window_strides: As there.
      padding: As there.
      **options: As there, of layers that dilate nothing.
    """
    compilers = functools.partial(
        lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options
    )
    if not _fits(x, kernel, window_strides, padding, **options):
        return compilers(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=convolve, default=compilers)


def _fits(x, kernel, window_strides, padding, **options):
    plain = options.get("feature_group_count", 1) == 1 and x.dtype == kernel.dtype == jnp.float32
    if not (plain and x.ndim == 4 and kernel.shape[:2] == (3, 3) and set(window_strides) == {1}):
        return False
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    around = padding == "SAME" or [tuple(side) for side in padding] == [(1, 1), (1, 1)]
    return around and set(dilations) <= {1} and min(kernel.shape[2:]) >= _CHANNELS


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and a border of one zero, in float32 to some units of the last place.

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
    parts = _parts(x)

    def step(i, y):
        return lax.dynamic_update_index_in_dim(y, pixels(parts[:, i]), i, 1)

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
    parts, of_parts = _parts(_even(x)), _parts(_even(gradient))

    def add(total, x, gradient):
        return total + x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])

    def step(i, total):
        sums = _transform(_OF_IMAGES, _tiles(parts[:, i]))
        of_products = _transform(_transposed(_OF_PRODUCTS), _pixels(of_parts[:, i]))
        return jax.tree.map(add, total, sums, of_products)

    none = jnp.zeros((x.shape[3], gradient.shape[3]), x.dtype)
    total = lax.fori_loop(0, parts.shape[1], step, [[none] * 4] * 4)
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_OF_KERNELS), total)])


def _transform(matrix, grid) -> Grid:
    """Returns matrix grid matrix^T, the grid's entries being arrays."""
    columns = [_sums(matrix, column) for column in zip(*grid, strict=True)]
    return [_sums(matrix, row) for row in zip(*columns, strict=True)]


def _sums(matrix, terms):
    rows = ([(c, term) for c, term in zip(row, terms, strict=True) if c] for row in matrix)
    return [functools.reduce(operator.add, [c * term for c, term in row]) for row in rows]


def _transposed(matrix):
    return tuple(zip(*matrix, strict=True))


def _tiles(x) -> Grid:
    """Returns the 4x4 pixels of tiles around every 2x2, each [B, H / 2, W / 2, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [[x[:, i : i + height : 2, j : j + width : 2] for j in range(4)] for i in range(4)]


def _pixels(y) -> Grid:
    """Returns the 2x2 pixels of tiles, each [B, H / 2, W / 2, C]."""
    return [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]


def _joined(grid):
    """Returns the images that `_pixels` cuts."""
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    rows, height, _, width, _, channels = y.shape
    return y.reshape(rows, 2 * height, 2 * width, channels)


def _even(x):
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def _parts(x):
    """Returns images [b, B / b, H, W, C]; devices that share B by rows then share b."""
    rows, height, width, _ = x.shape
    most = max(_TILES * 4 // (height * width), 1)
    size = max(size for size in range(1, min(most, rows) + 1) if rows % size == 0)
    return x.reshape(size, rows // size, *x.shape[1:])
