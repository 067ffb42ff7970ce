"""Quantization losses: quantization error, and even use of bits and codewords."""

import math

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
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


def bit_balance(x: jax.Array) -> jax.Array:
    """Squares each bit's mean over the batch: 0 for signs of which half are +1 and half -1.

    b_k = (1/B sum_i x_ik)^2. The sum over k is ||U^T 1||^2 / B^2; ADSQ's term is a reconstruction
    without a known scale, and this one does not grow with the batch. It is a statistic of the
    whole batch: under `pmap`, gather x first.

    Args:
      x: Embeddings, or straight-through signs, [B, D].

    Returns:
      Imbalance of every bit, [D], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Yang et al., Asymmetric Deep Semantic Quantization for Image Retrieval, IEEE Access 2019.
    """
    check_shape("x", x, "B", "D")
    return jnp.square(jnp.mean(widen(x), axis=0))


@on_explicit_mesh()
def bit_independence(x: jax.Array) -> jax.Array:
    """Squares the difference between the second moments of the bits and the identity matrix.

    b_kl = ((U^T U / B - I)_kl)^2; the sum over k and l is ||U^T U / B - I||_F^2, as DAPH's public
    code has it. Its diagonal asks for bits of mean square 1. It is a statistic of the whole batch:
    under `pmap`, gather x first.

    Args:
      x: Embeddings, or straight-through signs, [B, D].

    Returns:
      Dependence of every pair of bits, [D, D], float32 at least.

    Raises:
      ValueError: if x is not [B, D].

    Reference:
      Shen et al., Deep Asymmetric Pairwise Hashing, ACM MM 2017.
    """
    check_shape("x", x, "B", "D")
    x = widen(x)
    moments = jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST) / x.shape[0]
    return jnp.square(moments - jnp.eye(x.shape[1], dtype=x.dtype))


def usage_entropy(soft: jax.Array) -> jax.Array:
    """Returns log K minus the entropy of codeword usage: 0 where all codewords are used equally.

    u_m = log K + sum_k p_mk log p_mk, with p_mk = 1/N sum_i soft_mik; it is log K where only one
    codeword is used. The term belongs to no single paper. It is a statistic of the whole batch:
    under `pmap`, gather the embeddings before assigning them.

    Args:
      soft: Assignment weights [M, N, K], as `quantizers.product.soft_assign` returns them.

    Returns:
      Shortfall of every codebook, [M], in nats, float32 at least.

    Raises:
      ValueError: if soft is not [M, N, K].
    """
    check_shape("soft", soft, "M", "N", "K")
    usage = jnp.mean(widen(soft), axis=1)
    return math.log(soft.shape[2]) - jnp.sum(_entropy_terms(usage), axis=-1)


def code_entropy(soft: jax.Array) -> jax.Array:
    """Returns the entropy of each soft assignment: 0 for a single codeword, log K for all equally.

    h_mi = -sum_k soft_mik log soft_mik. MeCoQ's public code takes the logarithm of a weight that
    may have underflowed, which is NaN; here such a weight adds 0.

    Args:
      soft: Assignment weights [M, N, K], as `quantizers.product.soft_assign` returns them.

    Returns:
      Entropy of every row in every codebook, [M, N], in nats, float32 at least.

    Raises:
      ValueError: if soft is not [M, N, K].

    Reference:
      Wang et al., Contrastive Quantization with Code Memory for Unsupervised Image Retrieval,
      AAAI 2022.
    """
    check_shape("soft", soft, "M", "N", "K")
    return jnp.sum(_entropy_terms(widen(soft)), axis=-1)


def gini_batch(soft: jax.Array) -> jax.Array:
    """Sums the squared mean weights of each codebook's codewords: 1/K where all are used equally.

    g_m = sum_k (1/N sum_i soft_mik)^2, which is at least 1/K. Written from memory, not checked
    against the paper. It is a statistic of the whole batch: under `pmap`, gather the embeddings
    before assigning them.

    Args:
      soft: Assignment weights [M, N, K], as `quantizers.product.soft_assign` returns them.

    Returns:
      Concentration of every codebook's usage, [M], float32 at least.

    Raises:
      ValueError: if soft is not [M, N, K].

    Reference:
      Klein and Wolf, End-to-End Supervised Product Quantization for Image Search and Retrieval,
      CVPR 2019.
    """
    check_shape("soft", soft, "M", "N", "K")
    return jnp.sum(jnp.square(jnp.mean(widen(soft), axis=1)), axis=-1)


def gini_sample(soft: jax.Array) -> jax.Array:
    """Returns minus the sum of each assignment's squared weights: -1 for a single codeword.

    g_mi = -sum_k soft_mik^2, which is at least -1. Written from memory, not checked against the
    paper.

    Args:
      soft: Assignment weights [M, N, K], as `quantizers.product.soft_assign` returns them.

    Returns:
      Minus the concentration of every row in every codebook, [M, N], float32 at least.

    Raises:
      ValueError: if soft is not [M, N, K].

    Reference:
      Klein and Wolf, End-to-End Supervised Product Quantization for Image Search and Retrieval,
      CVPR 2019.
    """
    check_shape("soft", soft, "M", "N", "K")
    return -jnp.sum(jnp.square(widen(soft)), axis=-1)


def _gap_to_sign(x):
    # |x - sgn x| = ||x| - 1|, with a gradient at 0 as well: towards +1, the code of 0.
    check_shape("x", x, "B", "D")
    x = widen(x)
    return x - _constant_sign(x)


def _constant_sign(x):
    return jax.lax.stop_gradient(binary.sign(x))


def _entropy_terms(p):
    # At p = 0 the derivative of p log p is infinite, and times a softmax's own 0 it is NaN.
    return -p * jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
