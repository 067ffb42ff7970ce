"""Losses on what quantization takes away from an embedding, [B, D] -> [B]."""

import jax
import jax.numpy as jnp

from quantjax.losses.shapes import check_same


def quantization_error(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """Sums the squared differences between embeddings and their quantized values.

    q_i = ||x_i - x^_i||_2^2. Whether gradients reach `quantized` is the caller's choice: DQN
    holds its codebooks constant (`jax.lax.stop_gradient`).

    Args:
      x: Embeddings [B, D].
      quantized: What the codes stand for, [B, D]: `decode(encode(x))`.

    Returns:
      Squared Euclidean error of every row, [B].

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, eq. 2.
    """
    check_same("quantized", quantized, "x", x)
    return jnp.sum(jnp.square(x - quantized), axis=-1)
