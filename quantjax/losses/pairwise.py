"""Losses on pairs of embeddings: queries against database, [Q, D] x [N, D] -> [Q, N]."""

import jax
import jax.numpy as jnp

from quantjax.losses.shapes import check_pairs


def pairwise_cosine(queries: jax.Array, database: jax.Array, similar: jax.Array) -> jax.Array:
    """Squares the gap between cosine similarity and its target of +1 or -1.

    l_ij = (s_ij - cos(q_i, d_j))^2, with s_ij = +1 for a similar pair and -1 otherwise.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      database: Embeddings [N, D]; pass `queries` again for the paper's symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.

    Returns:
      Loss of every pair, [Q, N].

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, eq. 1.
    """
    check_pairs(queries, database, similar)
    cosine = _unit(queries) @ _unit(database).T
    return jnp.square(_target(similar, cosine.dtype) - cosine)


def pairwise_inner_product(
    queries: jax.Array, database: jax.Array, similar: jax.Array
) -> jax.Array:
    """Squares the gap between the scaled inner product and its target of +1 or -1.

    l_ij = (s_ij - <q_i, d_j> / D)^2, with s_ij = +1 for a similar pair and -1 otherwise. It is
    what DQN's ablation DQNip puts in the cosine's place; the paper's scale was not readable, and
    1 / D, which maps codes of +-1 onto [-1, 1], is our reading.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D]; pass `queries` again for the symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.

    Returns:
      Loss of every pair, [Q, N].

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, ablations.
    """
    check_pairs(queries, database, similar)
    similarity = jnp.matmul(queries, database.T) / queries.shape[1]
    return jnp.square(_target(similar, similarity.dtype) - similarity)


def _target(similar, dtype):
    # Compared with 0, so that the papers' own labels of +1 and -1 mean what they mean there.
    return jnp.where(similar > 0, 1, -1).astype(dtype)


def _unit(x):
    # The norm is taken of x / max|x|, so that neither |x| = 1e25 nor 1e-25 leaves float32; a zero
    # vector is divided by 1, for the gradient of a norm at zero is NaN.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
