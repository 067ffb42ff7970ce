"""Rotations that lower the quantization error: OPQ for product codes, ITQ for binary codes.

Rows are vectors, so a rotation R is applied as x @ R. Second moments are sums over rows: a table
sharded by rows needs no gather. Arithmetic is float32, matmuls in full precision.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, masked_rows, on_explicit_mesh, vary_alike
from quantjax.errors import InputError
from quantjax.quantizers import kmeans, precision, product


class RotatedCodebooks(NamedTuple):
    """Product codebooks and the rotation of the embeddings, for `ProductCodec`.

    Attributes:
      codebooks: Codewords [M, K, d] for x @ rotation.
      rotation: Orthogonal matrix [D, D].
    """

    codebooks: jax.Array
    rotation: jax.Array


class Projection(NamedTuple):
    """Mean and projection of binary codes, sign((x - mean) @ projection), for `BinaryCodec`.

    Attributes:
      mean: Mean embedding [D].
      projection: Orthonormal columns [D, bits].
    """

    mean: jax.Array
    projection: jax.Array


def random_rotation(key: jax.Array, dim: int) -> jax.Array:
    """Draws a uniformly random orthogonal matrix.

    Args:
      key: Random key, consumed.
      dim: D.

    Returns:
      Orthogonal matrix [D, D] float32, of determinant +1 or -1.
    """
    return jax.random.orthogonal(key, dim, dtype=jnp.float32)


@on_explicit_mesh()
def opq_parametric(x: jax.Array, *, num_codebooks: int, mask: jax.Array | None = None) -> jax.Array:
    """Returns the rotation that minimises the product quantization error of Gaussian embeddings.

    Principal axes are dealt out to M subspaces of D / M, largest variance first, each to the one
    whose product of variances is smallest yet: axes come out uncorrelated and subspaces balanced.

    Args:
      x: Embeddings [N, D].
      num_codebooks: M; it must divide D.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Orthogonal matrix [D, D] float32, to be applied as x @ rotation.

    Raises:
      ValueError: if x is not [N, D] or M does not divide D.

    Reference:
      Ge, He, Ke, Sun, Optimized Product Quantization, CVPR 2013, section 3.2.
    """
    product.split(x, num_codebooks)
    return _opq_parametric(*masked_rows(x, mask), num_codebooks)


# Fits are compiled as a whole: an eager loop compiles anew at every call.
@functools.partial(jax.jit, static_argnums=2)
def _opq_parametric(x, mask, num_codebooks):
    width = x.shape[1] // num_codebooks
    _, variances, axes = _principal_axes(_framed(x, mask)[0], mask)
    # In units of the smallest, so that each is at least 1: factors below 1 would all go to a
    # single subspace.
    floor = jnp.maximum(variances[0] * 1e-7, jnp.finfo(jnp.float32).tiny)
    # Products of many variances would leave float32; their logarithms add up.
    logs = jnp.log(jnp.maximum(variances, floor))

    def deal(carry, log):
        total, filled = carry
        subspace = jnp.argmin(jnp.where(filled < width, total, jnp.inf))
        place = subspace * width + filled[subspace]
        return (total.at[subspace].add(log), filled.at[subspace].add(1)), place

    start = jnp.zeros(num_codebooks, jnp.float32), jnp.zeros(num_codebooks, jnp.int32)
    start, logs = vary_alike(start, logs - jnp.min(logs))
    _, places = jax.lax.scan(deal, start, logs)
    return jnp.zeros_like(axes).at[:, places].set(axes)


@on_explicit_mesh()
def opq(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    num_iterations: int,
    mask: jax.Array | None = None,
) -> RotatedCodebooks:
    """Fits a rotation and product codebooks by alternating updates (OPQ).

    From `opq_parametric`'s rotation: one Lloyd iteration in every subspace, then the orthogonal R
    that brings X R nearest to the reconstruction Y, which is U V^T with U S V^T = X^T Y. Neither
    step raises the distortion, but for the repair of an empty cluster.

    Args:
      key: Random key for the k-means++ start, consumed.
      x: Embeddings [N, D].
      num_codebooks: M; it must divide D.
      num_codewords: K, at most 256 and at most N.
      num_iterations: Turns after the start; 0 is parametric OPQ.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Codebooks [M, K, D / M] and rotation [D, D], float32.

    Raises:
      ValueError: if M does not divide D, K is above 256, or there are fewer rows than codewords.

    Reference:
      Ge, He, Ke, Sun, Optimized Product Quantization, CVPR 2013, section 3.1.
    """
    product.split(x, num_codebooks)
    kmeans.check_num_rows(x, num_codewords)
    return _opq(key, *masked_rows(x, mask), num_codebooks, num_codewords, num_iterations)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _opq(key, x, mask, num_codebooks, num_codewords, num_iterations):
    x, scale, shift = _framed(x, mask)
    rotation = opq_parametric(x, num_codebooks=num_codebooks, mask=mask)
    codebooks = product.fit_codebooks(
        key,
        precision.matmul(x, rotation),
        num_codebooks=num_codebooks,
        num_codewords=num_codewords,
        mask=mask,
    )
    weights = mask.astype(jnp.float32)

    def turn(_, carry):
        # One Lloyd iteration a turn, as in the paper: the rotation moves the rows anyway.
        codebooks, rotation = carry
        rotated = precision.matmul(x, rotation)
        quantized = product.decode(codebooks, product.encode(codebooks, rotated))
        rotation = _nearest_orthogonal(precision.matmul(x.T, quantized * weights[:, None]))
        return product.refine_codebooks(codebooks, precision.matmul(x, rotation), 1, mask), rotation

    start, *_ = vary_alike((codebooks, rotation), x, weights)
    codebooks, rotation = jax.lax.fori_loop(0, num_iterations, turn, start)
    moved, _ = precision.two_part_product(shift[0], rotation)
    return RotatedCodebooks((codebooks + moved.reshape(num_codebooks, 1, -1)) / scale, rotation)


@on_explicit_mesh()
def itq(
    key: jax.Array,
    x: jax.Array,
    *,
    num_bits: int,
    num_iterations: int = 50,
    mask: jax.Array | None = None,
) -> Projection:
    """Fits a projection that minimises the error of replacing embeddings by their signs (ITQ).

    V = (X - mean) W with W the first principal axes; from a random rotation R, in turns
    B = sign(V R) and R = U V'^T with U S V'^T = V^T B, each of which can only lower ||B - V R||^2.
    The papers' SVD of B^T V gives the same R with both factors transposed; taking only one of them
    so, a mistake of public code, raises the error.

    Args:
      key: Random key for the first rotation, consumed.
      x: Embeddings [N, D].
      num_bits: Length of the code, at most D.
      num_iterations: Turns.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Mean [D] and projection W R [D, num_bits], float32.

    Raises:
      ValueError: if x is not [N, D] or num_bits is not between 1 and D.

    Reference:
      Gong and Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes,
      CVPR 2011.
    """
    check_shape("x", x, "N", "D")
    if not 1 <= num_bits <= x.shape[1]:
        raise InputError(
            f"num_bits must be between 1 and D = {x.shape[1]}, got {num_bits}; ask for fewer bits "
            "or widen the embedding"
        )
    return _itq(key, *masked_rows(x, mask), num_bits, num_iterations)


@functools.partial(jax.jit, static_argnums=3)
def _itq(key, x, mask, num_bits, num_iterations):
    x, scale, shift = _framed(x, mask)
    mean, _, axes = _principal_axes(x, mask)
    axes = axes[:, :num_bits]
    projected = precision.matmul(x - mean, axes) * mask[:, None]

    def turn(_, rotation):
        # Rows that do not count are zero in V, whatever their signs.
        signs = jnp.where(precision.matmul(projected, rotation) >= 0, 1, -1).astype(jnp.float32)
        return _nearest_orthogonal(precision.matmul(projected.T, signs))

    start, _ = vary_alike(random_rotation(key, num_bits), projected)
    rotation = jax.lax.fori_loop(0, num_iterations, turn, start)
    return Projection(((mean + shift) / scale)[0], precision.matmul(axes, rotation))


def _framed(x, mask):
    """Returns rows in the frame of those that count, others as zeros, and the frame.

    Sums over rows that lie far from the origin, and squares of tiny ones, would lose their digits.
    """
    scale, shift = kmeans.frame(x, mask)
    is_ordinary = jnp.all(scale == 1) & jnp.all(shift == 0)
    # A choice and no plain formula: ordinary rows keep their bits, and so do fits to them.
    framed = jax.lax.cond(
        is_ordinary, lambda x: x, lambda x: jnp.where(mask[:, None], x * scale - shift, 0), x
    )
    return framed, scale, shift


def _principal_axes(x, mask):
    """Returns mean [D], variances [D] in falling order, and their axes as columns of [D, D]."""
    weights = mask.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weights), 1)
    mean = jnp.sum(x * weights[:, None], axis=0) / total
    centred = (x - mean) * weights[:, None]
    # eigh returns rising variances; the largest must come first.
    variances, axes = jnp.linalg.eigh(precision.matmul(centred.T, centred) / total)
    return mean, variances[::-1], axes[:, ::-1]


def _nearest_orthogonal(matrix):
    """Returns the orthogonal R with the largest trace of R^T matrix (Schoenemann, 1966)."""
    u, _, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return precision.matmul(u, vt)
