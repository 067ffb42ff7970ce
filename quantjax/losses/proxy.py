"""Proxy losses: compare embeddings with their classes' codes or weights, [B, D] -> [B] or [L].

These losses need no pairs. A class's code is its centre: `losses.centres` makes them.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.losses.rows import check_multi_hot, check_same, cosines, log_one_plus_sum, widen
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
    network ends in a BatchNorm, which balances each bit over the batch; this loss does not. With
    trained centres it is CosFace, of scale 64 and margin 0.35 there.

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


@on_explicit_mesh(rows="x")
def additive_angular_margin(
    x: jax.Array, labels: jax.Array, centres: jax.Array, *, scale: float = 64.0, margin: float = 0.5
) -> jax.Array:
    """Returns the cross entropy of each row's labels, whose angles to the row are widened first.

    l_i = -sum_l p_il log softmax_l( s cos(theta_il + m y_il) ), with theta_il the angle between
    x_i and c_l, and p_i = y_i / sum_l y_il: ArcFace has one label a row. Beyond theta = pi - m,
    where the cosine would rise again, it is cos theta - m sin m, as in public code. sin^2 theta is
    held above 1e-6, and passes no gradient there: its root has none at 0.

    Args:
      x: Embeddings [B, D], of any length; a zero vector has cosine 0 to everything.
      labels: Multi-hot labels [B, L] of zeros and ones; a row without any costs 0.
      centres: Trained weights of every class, [L, D], of any length.
      scale: s, the sharpness of the softmax.
      margin: m, in radians.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or labels are not zeros and ones (not checked
        inside jit).

    Reference:
      Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019.
    """
    _check_classes(x, labels, "centres", centres)
    # Float32 in full on accelerators too: the sine of a small angle is a difference of equals.
    cosine = cosines(x, centres, precision=jax.lax.Precision.HIGHEST)
    sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), 1e-6))
    widened = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    widened = jnp.where(cosine > -jnp.cos(margin), widened, cosine - margin * jnp.sin(margin))
    return _cross_entropy(scale * jnp.where(labels > 0, widened, cosine), labels)


@on_explicit_mesh()
def proxy_anchor(
    x: jax.Array, labels: jax.Array, proxies: jax.Array, *, scale: float = 32.0, margin: float = 0.1
) -> jax.Array:
    """Returns for each class how far its proxy is from its rows and how near to the other rows.

    l_l = L / |P+| log(1 + sum_{i: y_il = 1} exp(-s (cos(x_i, p_l) - m)))
          + log(1 + sum_{i: y_il = 0} exp(s (cos(x_i, p_l) + m))),
    with |P+| the number of classes that the batch has rows of: the mean over l is the paper's
    loss. It is a statistic of the whole batch: under `pmap`, gather x and labels first.

    Args:
      x: Embeddings [B, D], of any length; a zero vector has cosine 0 to everything.
      labels: Multi-hot labels [B, L] of zeros and ones.
      proxies: Trained proxy of every class, [L, D], of any length.
      scale: s, the paper's alpha.
      margin: m, the paper's delta.

    Returns:
      Loss of every class, [L], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or labels are not zeros and ones (not checked
        inside jit).

    Reference:
      Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, eq. 4.
    """
    _check_classes(x, labels, "proxies", proxies)
    cosine, own = cosines(x, proxies), jnp.asarray(labels) > 0
    pull = log_one_plus_sum(-scale * (cosine - margin), own, axis=0)
    push = log_one_plus_sum(scale * (cosine + margin), ~own, axis=0)
    num_present = jnp.sum(jnp.any(own, axis=0), dtype=pull.dtype)
    return len(proxies) / jnp.maximum(num_present, 1) * pull + push


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
