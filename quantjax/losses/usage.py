"""Usage losses: even use of bits and of codewords, and certain assignments."""

import math

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.losses.rows import widen


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


def _entropy_terms(p):
    # At p = 0 the derivative of p log p is infinite, and times a softmax's own 0 it is NaN.
    return -p * jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
