"""Quantization losses, [B, D] -> [B]: how far embeddings are from their codes."""

import math

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape
from quantjax.losses.rows import check_same, unit, widen
from quantjax.quantizers import binary


def quantization_error(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns each embedding's squared distance to its quantized value.

    q_i = ||x_i - x^_i||_2^2. Whether gradients reach `quantized` is the caller's choice: DQN
    holds its codebooks constant (`jax.lax.stop_gradient`).

    Args:
      x: Embeddings [B, D].
      quantized: Reconstructed embeddings, [B, D]: `decode(encode(x))`.

    Returns:
      Squared Euclidean error of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, eq. 2.
    """
    check_same("quantized", quantized, "x", x)
    return jnp.sum(jnp.square(widen(x) - widen(quantized)), axis=-1)


def sign_error(x: jax.Array) -> jax.Array:
    """Returns each embedding's squared distance to its signs.

    q_i = ||x_i - sgn(x_i)||_2^2, the signs held constant; sgn(0) = +1, as in the codes.

    Args:
      x: Embeddings [B, D].

    Returns:
      Squared Euclidean error of every row, [B], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Li et al., Feature Learning Based Deep Supervised Hashing with Pairwise Labels, IJCAI 2016.
    """
    return jnp.sum(jnp.square(_gap_to_sign(x)), axis=-1)


def log_cosh_sign(x: jax.Array) -> jax.Array:
    """Sums the log cosh of the difference between each embedding and its signs.

    q_i = sum_k log cosh(|x_ik| - 1), the bimodal Laplacian prior of DHN: quadratic close to a
    sign, linear far from it. The signs are held constant and sgn(0) = +1, as in the codes.

    Args:
      x: Embeddings [B, D].

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Zhu et al., Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016.
    """
    gap = _gap_to_sign(x)
    # cosh itself is infinite from 90 on.
    return jnp.sum(jnp.logaddexp(gap, -gap) - math.log(2), axis=-1)


def cubed_sign_error(x: jax.Array) -> jax.Array:
    """Averages the cubed absolute differences between each embedding and its signs.

    q_i = mean_k | |x_ik| - 1 |^3, the signs held constant, sgn(0) = +1. This is a mean over bits,
    where `sign_error` is a sum: GreedyHash's weights of 0.1 and 1 belong to the mean.

    Args:
      x: Embeddings [B, D].

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS
      2018.
    """
    return jnp.mean(jnp.abs(_gap_to_sign(x)) ** 3, axis=-1)


def absolute_sign_error(x: jax.Array) -> jax.Array:
    """Sums the absolute differences between each embedding and its signs.

    q_i = || |x_i| - 1 ||_1, the signs held constant, sgn(0) = +1. DSH adds alpha q_i to
    `pairwise_contrastive` for both sides of a pair, alpha = 0.1 in public code.

    Args:
      x: Embeddings [B, D].

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Liu et al., Deep Supervised Hashing for Fast Image Retrieval, CVPR 2016.
    """
    return jnp.sum(jnp.abs(_gap_to_sign(x)), axis=-1)


def cauchy_sign_error(x: jax.Array, *, gamma: float) -> jax.Array:
    """Returns the negative log likelihood of each embedding's angle to its signs, a Cauchy prior.

    q_i = log(1 + d_i / gamma), with d_i = D/2 (1 - cos(|x_i|, 1)), the Hamming distance that
    `pairwise_cauchy` has for the angle. The signs are held constant and sgn(0) = +1.

    Args:
      x: Embeddings [B, D], of any length; a zero vector has cosine 0 to its signs.
      gamma: Scale of the distribution, in bits; the paper's is that of `pairwise_cauchy`.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Cao et al., Deep Cauchy Hashing for Hamming Space Retrieval, CVPR 2018.
    """
    check_shape("x", x, "B", "D")
    x = widen(x)
    num_bits = x.shape[1]
    cosine = jnp.mean(unit(x) * _constant_sign(x), axis=-1) * math.sqrt(num_bits)
    return jnp.log1p(num_bits / 2 * (1 - cosine) / gamma)


def _gap_to_sign(x):
    # |x - sgn x| = ||x| - 1|, with a gradient at 0 as well: towards +1, the code of 0.
    check_shape("x", x, "B", "D")
    x = widen(x)
    return x - _constant_sign(x)


def _constant_sign(x):
    return jax.lax.stop_gradient(binary.sign(x))
