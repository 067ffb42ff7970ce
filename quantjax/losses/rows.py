"""Steps that losses share: checks of shapes and labels, casts, cosines and squared distances."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import can_be_seen, check_shape
from quantjax.errors import InputError


def check_pairs(queries: jax.Array, database: jax.Array, similar: jax.Array) -> None:
    """Raises ValueError if the shapes of pair arguments disagree or pair labels are not binary.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D].
      similar: Label of every pair, [Q, N].

    Raises:
      ValueError: naming the argument, its shape and the required shape; or as `check_binary`.
    """
    check_shape("queries", queries, "Q", "D")
    check_shape("database", database, "N", queries.shape[1])
    check_shape("similar", similar, len(queries), len(database))
    check_binary("similar", similar)


def check_same(name: str, x: jax.Array, reference_name: str, reference: jax.Array) -> None:
    """Raises ValueError if an array does not have the shape [B, D] of a reference array.

    Args:
      name: Name of `x` in the error message.
      x: The array to check.
      reference_name: Name of `reference` in the error message.
      reference: The array [B, D] whose shape is required.

    Raises:
      ValueError: naming both arrays and their shapes.
    """
    check_shape(reference_name, reference, "B", "D")
    if x.shape != reference.shape:
        raise InputError(
            f"{name} must have the shape of {reference_name}, {reference.shape}, got {x.shape}"
        )


def check_binary(name: str, marks: jax.Array) -> None:
    """Raises ValueError if pair labels are neither bool, nor 0 and 1, nor -1 and +1.

    A loss treats every value above 0 as True: a Jaccard similarity of 0.1 would count as similar.

    Args:
      name: Name of `marks` in the error message.
      marks: Whether each pair is similar, of any shape and type.

    Raises:
      ValueError: naming the range of the given values; a traced array is not checked.
    """
    if not (_holds_only(marks, 0, 1) or _holds_only(marks, -1, 1)):
        raise InputError(
            f"{name} must be binary, 0 and 1 or -1 and +1, got {_range_of(marks)}; no loss takes "
            "soft targets: labels.share_label says which pairs share a label, and pair_weights "
            "takes labels.jaccard_similarity"
        )


def check_multi_hot(name: str, labels: jax.Array) -> None:
    """Raises ValueError if labels are not zeros and ones.

    Args:
      name: Name of `labels` in the error message.
      labels: Multi-hot labels [B, L], of any type.

    Raises:
      ValueError: naming the range of the given values; a traced array is not checked.
    """
    if not _holds_only(labels, 0, 1):
        raise InputError(
            f"{name} must be multi-hot, of zeros and ones, got {_range_of(labels)}; "
            "labels.multi_hot makes them of class ids"
        )


def _holds_only(x, low, high):
    """Returns whether a concrete array holds only the two given values; True for a traced array."""
    # Bool is known without a look: the usual labels are not read back to the host.
    if x.dtype == bool or not can_be_seen(x):
        return True
    x = np.asarray(x)
    return bool(((x == low) | (x == high)).all())


def _range_of(x):
    x = np.asarray(x)
    return f"{x.dtype} from {x.min()} to {x.max()}"


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


def log_one_plus_sum(exponents: jax.Array, mask: jax.Array, *, axis: int) -> jax.Array:
    """Returns log(1 + sum exp(x)) of the marked exponents along an axis.

    Args:
      exponents: Numbers x, of any shape.
      mask: Which numbers count, of the same shape, bool.
      axis: Axis of the sum.

    Returns:
      Logarithms, of the shape without the axis; 0, with no gradient, where nothing is marked.
    """
    marked = jnp.where(mask, exponents, -jnp.inf)
    one = jnp.zeros_like(jax.lax.slice_in_dim(marked, 0, 1, axis=axis))
    # The one is a term like the others, so that no sum is empty.
    return jax.nn.logsumexp(jnp.concatenate((one, marked), axis=axis), axis=axis)
