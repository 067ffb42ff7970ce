"""k-means as pure functions: k-means++ start, Lloyd iterations, repair of empty clusters.

Rows carry a mask, so that a table padded to a fixed size trains the same centroids as its real
rows alone. Every step is a sum over rows, so that a table sharded by rows needs no gather. All
arithmetic is float32 for any input dtype.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape, masked_rows, on_explicit_mesh, vary_alike
from quantjax.errors import InputError
from quantjax.quantizers import packing, precision

_TILE = 512  # rows; 512 x 256 distances in float32 are half a megabyte
FAR = 64.0
"""Squared offset over squared spread up to which products lose 2e-5 of the spread at most."""

MOMENTUM = 0.7
"""Momentum of fits: of 0.5, 0.7 and 0.8 the best on Gaussian and Fashion-MNIST training rows."""

_CANDIDATES = 32  # rows for each centroid that k-means++ chooses from
_FIRST_ROWS = 64  # rows for each centroid that the first iterations of a fit see


def relative_distances(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """Returns squared distances of rows to centroids minus each row's own ||x||^2.

    Args:
      x: Rows [N, d].
      centroids: Centroids [K, d].

    Returns:
      ||c_k||^2 - 2 <x_i, c_k>, [N, K] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    _check_centroids(x, centroids)
    x, centroids = x.astype(jnp.float32), centroids.astype(jnp.float32)
    return jnp.sum(jnp.square(centroids), axis=-1) - 2 * precision.matmul(x, centroids.T)


def assign(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """Returns the number of each row's nearest centroid; the lowest number wins a tie.

    Args:
      x: Rows [N, d].
      centroids: Centroids [K, d].

    Returns:
      Centroid numbers [N] int32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    _check_centroids(x, centroids)
    return _assign(x, centroids)


@jax.jit
def _assign(x, centroids):
    scale, shift = frame(jnp.asarray(centroids, jnp.float32))
    return _assign_framed(x, centroids * scale - shift, scale, shift)


def _assign_framed(x, centroids, scale=1, shift=0):
    """Assigns rows to the nearest of centroids that are in the frame already."""
    # Half the distances in one product, ||c||^2 / 2 being one more column: `nearest` reads them
    # twice, and would subtract twice.
    halves = jnp.sum(jnp.square(centroids), axis=1, keepdims=True) / 2
    centroids = jnp.concatenate([-centroids, halves], axis=1)

    def tile(rows):
        rows = jnp.pad(rows * scale - shift, ((0, 0), (0, 1)), constant_values=1)
        return nearest(precision.matmul(centroids, rows.T))

    return over_tiles(tile, x)


@functools.partial(jax.jit, static_argnames="axis")
def power_of_two(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Returns power-of-two factors that scale numbers so that their squares fit in float32.

    Multiplying by a power of two is exact. The factor is 1 where the largest magnitude lies between
    2^-40 and 2^40, so that ordinary numbers keep every bit.

    Args:
      x: Numbers.
      axis: Axes that share a factor; all of them when None.

    Returns:
      Factors like x, of size 1 along the axes, without gradient.
    """
    x = jax.lax.stop_gradient(x)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    _, exponent = jnp.frexp(largest)
    # 2^-127 is no normal number, and is flushed to zero.
    factor = jnp.ldexp(jnp.ones_like(largest), jnp.clip(-exponent, -120, 120))
    ordinary = (jnp.abs(exponent) <= 40) | (largest == 0)
    return jnp.where(ordinary, jnp.ones_like(largest), factor)


@jax.jit
def frame(centroids: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns a scale and a shift that keep distances to centroids accurate in float32.

    ||c||^2 - 2 <x, c> cancels where centroids lie far from the origin and near each other, and
    leaves float32 where they are huge or tiny. In the frame, x * scale - shift, neither happens.
    The shift is 0 unless the centroids' mean is 8 times as far from the origin as the centroids
    are from their mean. The scale is 1 unless magnitudes leave 2^-40 to 2^40. Ordinary data
    therefore keep every bit.

    Args:
      centroids: Centroids [..., K, d] float32, or rows.
      mask: Whether each of them counts, [..., K] bool; all when None. Others must be zeros.

    Returns:
      Scale [..., 1, 1], a power of two, and shift [..., 1, d], both without gradient.
    """
    scale = power_of_two(centroids, axis=(-2, -1))
    scaled = jax.lax.stop_gradient(centroids) * scale
    counting = None if mask is None else mask[..., None]
    mean = jnp.mean(scaled, axis=-2, keepdims=True, where=counting)
    spread = jnp.sum(jnp.square(scaled - mean), axis=-1, keepdims=True)
    spread = jnp.mean(spread, axis=-2, keepdims=True, where=counting)
    offset = jnp.sum(jnp.square(mean), axis=-1, keepdims=True)
    return scale, jnp.where(offset > FAR * spread, mean, 0)


def far_middle(codebooks: jax.Array) -> jax.Array:
    """Returns the mean of each codebook that lies far from the origin, and zeros for the others.

    Args:
      codebooks: Codewords [..., K, d] float32.

    Returns:
      The shift of `frame` in the codewords' own units, [..., 1, d].
    """
    scale, shift = frame(codebooks)
    return shift / scale


def relative_distances_by_centroid(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """Returns `relative_distances` transposed, the layout that CPUs reduce quickly.

    Args:
      x: Rows [N, d].
      centroids: Centroids [K, d].

    Returns:
      ||c_k||^2 - 2 <x_i, c_k>, [K, N] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    _check_centroids(x, centroids)
    x, centroids = jnp.asarray(x, jnp.float32), jnp.asarray(centroids, jnp.float32)
    squares = jnp.sum(jnp.square(centroids), axis=-1)
    # Through a choice, so that no compiler fuses the last product with the difference: it would
    # round otherwise where distances are computed twice, and `nearest` would miss its own minimum.
    squares = jnp.where(squares >= 0, squares, jnp.nan)
    return squares[:, None] - 2 * precision.matmul(centroids, x.T)


def nearest(distances: jax.Array) -> jax.Array:
    """Returns, for each column, the number of the first row that holds the column's smallest value.

    argmin carries an index through the reduction and is slow on CPUs; min and equality are not.

    Args:
      distances: [K, N].

    Returns:
      Row numbers [N] int32; K - 1 in a column of NaN.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("distances", distances, "K", "N")
    last = distances.shape[0] - 1
    narrow = jnp.uint8 if last < 256 else jnp.int32  # four times the numbers in a register
    numbers = jnp.arange(last + 1, dtype=narrow)[:, None]
    equal = distances == jnp.min(distances, axis=0, keepdims=True)
    return jnp.min(jnp.where(equal, numbers, narrow(last)), axis=0).astype(jnp.int32)


def over_tiles(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a row-wise function to tiles of 512 rows on CPUs, so that temporaries stay in cache.

    A tile takes every n-th row: rows that are sharded over devices are then sharded within each
    tile, and need no gather.

    Args:
      function: [n, ...] -> [n, ...], each row for itself.
      x: Rows [N, ...].

    Returns:
      `function(x)`.
    """
    count = x.shape[0] // _TILE
    if count < 4:
        return function(x)

    def tiled(x):
        head = x[: count * _TILE].reshape(_TILE, count, *x.shape[1:])
        tiles = jax.lax.map(
            lambda i: function(jax.lax.dynamic_index_in_dim(head, i, axis=1, keepdims=False)),
            jnp.arange(count),
        )
        rows = jnp.swapaxes(tiles, 0, 1).reshape(count * _TILE, *tiles.shape[2:])
        if count * _TILE == x.shape[0]:
            return rows
        return jnp.concatenate([rows, function(x[count * _TILE :])])

    return jax.lax.platform_dependent(x, cpu=tiled, default=function)


@on_explicit_mesh()
def plus_plus(key: jax.Array, x: jax.Array, *, num_centroids: int, mask: jax.Array) -> jax.Array:
    """Draws k-means++ starting centroids: rows with probability proportional to squared distance.

    The distance is to the nearest centroid drawn so far. Every centroid takes a pass over the rows.
    If the table has more than 32 * K rows, only 32 * K of its rows, evenly spread, are candidates:
    the means that Lloyd's iterations reach are as good.

    Args:
      key: Random key, consumed.
      x: Rows [N, d].
      num_centroids: K.
      mask: Whether each row counts, [N] bool.

    Returns:
      Centroids [K, d] float32, each a copy of a row.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    check_shape("x", x, "N", "d")
    return _draw_rows(key, *masked_rows(x, mask), num_centroids)


# An eager loop compiles anew at every call, for its body is a new function each time.
@functools.partial(jax.jit, static_argnums=3)
def _draw_rows(key, x, mask, num_centroids):
    if len(x) > _CANDIDATES * num_centroids:
        key, spread = jax.random.split(key)
        candidates = spread_rows(spread, mask, num_rows=_CANDIDATES * num_centroids)
        x, mask = x[candidates], mask[candidates]
    weight = mask.astype(jnp.float32)
    uniform = jax.random.uniform(key, (num_centroids,), jnp.float32)

    def draw(probability, u):
        # Rows that all coincide leave no distance to draw by: any of them will do.
        return x[draw_row(jnp.where(jnp.sum(probability) > 0, probability, weight), u)]

    def step(nearest, u):
        # Before the first draw all rows are infinitely far, and are drawn by their weight alone.
        chosen = draw(weight * jnp.where(jnp.isinf(nearest), 1, nearest), u)
        return jnp.minimum(nearest, jnp.sum(jnp.square(x - chosen), axis=-1)), chosen

    scale = power_of_two(x)
    start = jnp.full(len(x), jnp.inf, jnp.float32)
    x, weight, uniform, start = vary_alike(x * scale, weight, uniform, start)
    return jax.lax.scan(step, start, uniform)[1] / scale


@on_explicit_mesh()
def spread_rows(key: jax.Array, mask: jax.Array, *, num_rows: int) -> jax.Array:
    """Cuts the rows that count into equal parts and draws one row from each part.

    Args:
      key: Random key, consumed.
      mask: Whether each row counts, [N] bool; at least one.
      num_rows: Number of draws; rows repeat if fewer rows than that count.

    Returns:
      Row numbers [num_rows] int32, ascending.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("mask", mask, "N")
    return _spread_rows(jax.random.uniform(key, (num_rows,), jnp.float32), mask, num_rows)


def _spread_rows(place, mask, num_rows):
    """Returns the row at a place within each part, from 0 to 1, of rows cut into equal parts."""
    through = jnp.cumsum(mask, dtype=jnp.int32)
    parts = jnp.arange(num_rows) + place
    ranks = jnp.minimum(jnp.int32(parts * (jnp.float32(through[-1]) / num_rows)), through[-1] - 1)
    return jnp.searchsorted(through, ranks + 1).astype(jnp.int32)


@on_explicit_mesh()
def draw_row(weight: jax.Array, u: jax.Array) -> jax.Array:
    """Returns a row number drawn in proportion to the weights, given a uniform random number.

    Args:
      weight: Weight of each row, [N], at least 0; it need not sum to 1.
      u: Uniform random number in [0, 1).

    Returns:
      Row number, int32; a row without weight only if no row has weight.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("weight", weight, "N")
    check_finite("weight", weight)
    # A parallel sum in float32 is not monotone, and rows without weight would hold slivers of it.
    cumulative = jnp.where(weight > 0, jnp.cumsum(weight), 0)
    behind = cumulative > u * jnp.max(cumulative)
    rows = jnp.arange(len(weight), dtype=jnp.int32)
    return jnp.min(jnp.where(behind, rows, len(weight) - 1))


@on_explicit_mesh()
def fit(centroids: jax.Array, x: jax.Array, *, mask: jax.Array, num_iterations: int) -> jax.Array:
    """Fits centroids that were drawn from the rows, in half the passes that Lloyd's method takes.

    Lloyd's iterations run with momentum. Of a table of more than 128 * K rows they run on 64 * K
    rows first, evenly spread, which costs little and leaves less to do on all rows. Ten iterations
    reach the distortion of twenty plain ones.

    Args:
      centroids: Starting centroids [K, d], as of `plus_plus`.
      x: Rows [N, d].
      mask: Whether each row counts, [N] bool.
      num_iterations: Number of iterations over all rows.

    Returns:
      Centroids [K, d] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    _check_shapes(x, centroids)
    check_finite("centroids", centroids)
    return _fit(jnp.asarray(centroids, jnp.float32), *masked_rows(x, mask), num_iterations)


@jax.jit
def _fit(centroids, x, mask, num_iterations):
    num_rows = _FIRST_ROWS * len(centroids)
    if len(x) > 2 * num_rows:
        some = _spread_rows(0.5, mask, num_rows)
        centroids = _lloyd(centroids, x[some], mask[some], num_iterations, MOMENTUM)
    return _lloyd(centroids, x, mask, num_iterations, MOMENTUM)


@on_explicit_mesh()
def lloyd(
    centroids: jax.Array,
    x: jax.Array,
    *,
    mask: jax.Array,
    num_iterations: int,
    momentum: float = 0.0,
) -> jax.Array:
    """Runs Lloyd iterations: assigns rows to the nearest centroid and takes cluster means.

    An iteration is a gradient step whose length is safe, and short. Momentum, as Nesterov has it,
    starts each iteration but the last beyond the means, by a part of their last move.

    Args:
      centroids: Starting centroids [K, d].
      x: Rows [N, d].
      mask: Whether each row counts, [N] bool.
      num_iterations: Number of iterations; without momentum none raises the distortion, except by
        repairs.
      momentum: From 0 to below 1.

    Returns:
      Centroids [K, d] float32, means of the rows that the last iteration assigned to them.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28(2), 1982.
      Bottou and Bengio, Convergence properties of the k-means algorithms, NeurIPS 1994 (iterations
      as gradient steps).
    """
    _check_shapes(x, centroids)
    check_finite("centroids", centroids)
    centroids = jnp.asarray(centroids, jnp.float32)
    return _lloyd(centroids, *masked_rows(x, mask), num_iterations, momentum)


@jax.jit
def _lloyd(centroids, x, mask, num_iterations, momentum):
    weight = mask.astype(jnp.float32)

    def step(i, carry):
        means, before, counts = carry
        ahead = means + jnp.where(i < num_iterations - 1, momentum, 0) * (means - before)
        # Repaired before the assignment, so that the returned centroids are means.
        centroids = repair_empty(ahead, counts)
        # A centroid that was moved to another cluster keeps no momentum.
        before = jnp.where(centroids != ahead, centroids, means)
        nearest = _assign_framed(x, centroids)
        counts = jnp.zeros(centroids.shape[0], jnp.float32).at[nearest].add(weight)
        sums = jnp.zeros_like(centroids).at[nearest].add(x)  # zeros where rows do not count
        means = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centroids)
        return means, before, counts

    # In the frame of the first centroids: sums far from the origin would lose the means' digits.
    scale, shift = frame(centroids)
    x = jnp.where(mask[:, None], x * scale - shift, 0)
    framed = centroids * scale - shift
    start = framed, framed, jnp.ones(centroids.shape[0], jnp.float32)
    start, *_ = vary_alike(start, x, weight)
    found = jax.lax.fori_loop(0, num_iterations, step, start)[0]
    return jnp.where(shift != 0, found + shift, found) / scale


def repair_empty(centroids: jax.Array, counts: jax.Array) -> jax.Array:
    """Moves each empty cluster's centroid next to a large cluster's, to split that cluster.

    The e-th empty cluster takes the centroid of the e-th largest cluster; the two are pushed apart
    by at most one part in a thousand. A cluster of fewer than two rows is not split.

    Args:
      centroids: Centroids [K, d].
      counts: Rows of each cluster, [K].

    Returns:
      Centroids [K, d] float32, because bfloat16 would round the small push away; unchanged when
      no cluster is empty.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("centroids", centroids, "K", "d")
    check_shape("counts", counts, len(centroids))
    check_finite("centroids", centroids)
    centroids, counts = jnp.asarray(centroids, jnp.float32), jnp.asarray(counts)
    empty = counts == 0
    donors = jnp.argsort(-counts)[jnp.cumsum(empty) - 1]  # of each empty cluster, in turn
    splits = empty & (counts[donors] >= 2)
    # Unequal parts of either sign, or rows of equal columns would lie in the plane between the two.
    apart = 1e-3 * jnp.cos(1 + jnp.arange(centroids.shape[1], dtype=jnp.float32))
    somewhere = jnp.any(centroids != 0, axis=-1, keepdims=True)
    shift = jnp.where(somewhere, centroids, 1e-6)[donors] * apart  # zero has no parts to move by
    pushed = jnp.zeros_like(centroids).at[donors].add(jnp.where(splits[:, None], shift, 0))
    return jnp.where(splits[:, None], centroids[donors] + shift, centroids - pushed)


def check_num_rows(x: jax.Array, num_codewords: int) -> None:
    """Raises ValueError if K is not from 2 to 256, or rows [N, ...] are fewer than K codewords."""
    packing.check_num_codewords(num_codewords)
    if len(x) < num_codewords:
        raise InputError(
            f"k-means needs at least as many rows as codewords, got {len(x)} rows for "
            f"K = {num_codewords}; lower K or add training images"
        )


def _check_centroids(x, centroids):
    _check_shapes(x, centroids)
    check_finite("x", x)
    check_finite("centroids", centroids)


def _check_shapes(x, centroids):
    check_shape("x", x, "N", "d")
    check_shape("centroids", centroids, "K", x.shape[1], beside=f" for x of shape {x.shape}")
