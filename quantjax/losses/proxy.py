"""Proxy losses: compare each embedding with its class's code or weights, [B, D] -> [B].

These losses need no pairs. A class's code is its centre: `losses.centres` makes them.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.losses.rows import check_multi_hot, check_same, cosines, widen
from quantjax.quantizers import binary


def central_similarity(x: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the binary cross entropy between each embedding's bits and its class centre's bits.

    l_i = -1/D sum_k [ c_ik log h_ik + (1 - c_ik) log(1 - h_ik) ], with h = (tanh(x) + 1) / 2 and
    c the centre's bits. It is 1/D sum_k log(1 + exp(-2 x_ik t_ik)) for targets t = +-1. This form
    neither overflows nor is clipped at 100 for each bit, as the public code's is. CSQ adds lambda
    `sign_error(tanh(x))` / D, with lambda = 1e-4 in public code.

    Args:
      x: Embeddings [B, D], before the tanh.
      targets: Centre of every row, [B, D] of +1 and -1: `centres[class_ids]`, or
        `class_centres(key, labels, centres)` for several labels a row.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval,
      CVPR 2020.
    """
    check_same("targets", targets, "x", x)
    return jnp.mean(jax.nn.softplus(-2 * widen(x) * targets), axis=-1)


@on_explicit_mesh(rows="x")
def orthogonal_cosine(
    x: jax.Array, labels: jax.Array, centres: jax.Array, *, scale: float = 8.0, margin: float = 0.2
) -> jax.Array:
    """Returns the cross entropy of each row's labels under a softmax of its cosines to all centres.

    l_i = -sum_l p_il log softmax_l( s (cos(x_i, c_l) - m y_il) ), with p_i = y_i / sum_l y_il:
    the paper has one label a row, and several share the target evenly. Scale and margin are the
    public code's, which takes a margin of 0.3 on CIFAR. The paper's
    network ends in a BatchNorm, which balances each bit over the batch; this loss does not.

    Args:
      x: Embeddings [B, D], of any length; a zero vector has cosine 0 to everything.
      labels: Multi-hot labels [B, L] of zeros and ones; a row without any costs 0.
      centres: Centre of every class, [L, D].
      scale: s, the sharpness of the softmax.
      margin: m, taken off the cosines of a row's own labels.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or labels are not zeros and ones (not checked
        inside jit).

    Reference:
      Hoe et al., One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
      Objective, NeurIPS 2021.
    """
    _check_classes(x, labels, "centres", centres)
    cosine = cosines(x, centres)
    logits = scale * (cosine - margin * jnp.asarray(labels > 0, cosine.dtype))
    return _cross_entropy(logits, labels)


def class_wise_margin(x: jax.Array, targets: jax.Array, *, margin: float = 1.0) -> jax.Array:
    """Sums the hinge loss of each embedding's bits against its class centre's bits.

    l_i = sum_k max(0, m - x_ik t_ik), the paper's polarization loss.

    Args:
      x: Embeddings [B, D], without a saturating activation.
      targets: Centre of every row, [B, D] of +1 and -1: `centres[class_ids]`, or
        `class_centres(key, labels, centres)` for several labels a row.
      margin: m, the public code's 1.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Fan et al., Deep Polarized Network for Supervised Learning of Accurate Binary Hashing
      Codes, IJCAI 2020.
    """
    check_same("targets", targets, "x", x)
    return jnp.sum(jnp.maximum(margin - widen(x) * targets, 0), axis=-1)


@on_explicit_mesh(rows="x")
def greedy_hash(x: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the cross entropy of each row's labels under a linear classifier of its signs.

    l_i = -sum_l p_il log softmax_l( W sgn(x_i) ), with p_i = y_i / sum_l y_il; the gradient
    passes the sign unchanged. The paper has one label a row; that several share the target evenly
    is our reading. GreedyHash adds `cubed_sign_error`.

    Args:
      x: Embeddings [B, D], without an activation.
      labels: Multi-hot labels [B, L] of zeros and ones; a row without any costs 0.
      weights: The classifier W, [L, D], trained with the network; it has no bias.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or labels are not zeros and ones (not checked
        inside jit).

    Reference:
      Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN,
      NeurIPS 2018.
    """
    _check_classes(x, labels, "weights", weights)
    return _cross_entropy(binary.sign(widen(x)) @ widen(weights).T, labels)


def _cross_entropy(logits, labels):
    target = jnp.asarray(labels > 0, logits.dtype)
    # At least 1, so that a row without labels has a target of zeros and costs 0.
    target = target / jnp.maximum(jnp.sum(target, axis=-1, keepdims=True), 1)
    return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def _check_classes(x, labels, name, classes):
    check_shape("x", x, "B", "D")
    check_shape("labels", labels, len(x), "L")
    check_multi_hot("labels", labels)
    check_shape(name, classes, labels.shape[1], x.shape[1])
