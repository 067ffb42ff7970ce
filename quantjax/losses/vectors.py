"""Row arithmetic shared by the losses: float32 casts, unit rows, cosines and distances."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """Casts x to at least float32, because bfloat16 is too coarse for differences of distances.

    Args:
      x: Numbers of any shape and type.

    Returns:
      The same numbers; float64 stays float64.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit(x: jax.Array) -> jax.Array:
    """Divides each row by its Euclidean length.

    Args:
      x: Rows [N, D], of any length.

    Returns:
      Rows of length 1, [N, D]; a zero row stays zero and has a finite gradient.
    """
    # The norm is taken of x / max|x|, so that neither |x| = 1e25 nor 1e-25 leaves float32; a zero
    # vector is divided by 1, for the gradient of a norm at zero is NaN.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def cosines(
    queries: jax.Array, database: jax.Array, *, precision: jax.lax.Precision | None = None
) -> jax.Array:
    """Returns the cosine of every query with every database row.

    Args:
      queries: Rows [Q, D], of any length and type.
      database: Rows [N, D].
      precision: Precision of the product of unit rows; when None, accelerators multiply float32 in
        fewer bits.

    Returns:
      Cosines [Q, N], float32 at least; 0 where either row is zero.
    """
    return jnp.matmul(unit(widen(queries)), unit(widen(database)).T, precision=precision)


def squared_distances(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns the squared Euclidean distance of every query to every database row.

    ||q_i - d_j||_2^2 is computed through one matrix product.

    Args:
      queries: Rows [Q, D], float32 at least.
      database: Rows [N, D], float32 at least.

    Returns:
      Squared distances [Q, N], never below 0; off by about 1e-7 of the squared lengths.
    """
    # Accelerators multiply float32 in fewer bits unless told otherwise, and near neighbours are a
    # difference of large numbers.
    products = jnp.matmul(queries, database.T, precision=jax.lax.Precision.HIGHEST)
    squares = [jnp.sum(jnp.square(x), axis=-1) for x in (queries, database)]
    return jax.nn.relu(squares[0][:, None] + squares[1] - 2 * products)
