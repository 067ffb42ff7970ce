"""Triplet losses: one loss for each anchor, positive and negative, 3 x [T, D] -> [T].

`quantjax.losses.selection` selects the triplets of a batch.
"""

import jax
import jax.numpy as jnp

from quantjax.losses.rows import check_same, unit, widen
from quantjax.quantizers import binary


def triplet_margin(
    anchors: jax.Array, positives: jax.Array, negatives: jax.Array, *, margin: float
) -> jax.Array:
    """Returns the triplet hinge loss: the negative must be farther than the positive by a margin.

    l = [m + ||a - p||_2^2 - ||a - n||_2^2]_+.

    Args:
      anchors: Embeddings [T, D].
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].
      margin: m, in units of squared distance.

    Returns:
      Loss of every triplet, [T], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Schroff et al., FaceNet: A Unified Embedding for Face Recognition and Clustering, CVPR 2015.
    """
    a, p, n = _widened(anchors, positives, negatives)
    return jax.nn.relu(margin + _distance_difference(a, p, n))


def triplet_likelihood(
    anchors: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float,
    scale: float = 0.5,
) -> jax.Array:
    """Returns the negative log likelihood that the positive is nearer than the negative.

    l = log(1 + e^t) - t, with t = theta_ap - theta_an - alpha and theta_uv = scale <u, v>. The
    paper has theta = <u, v> / 2; public code leaves the half out and clips t to [-100, 50], which
    is not needed here.

    Args:
      anchors: Embeddings [T, D].
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].
      margin: alpha, in units of theta.
      scale: Factor of the inner products; 1 is public code's.

    Returns:
      Loss of every triplet, [T], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Wang et al., Deep Supervised Hashing with Triplet Labels, ACCV 2016.
    """
    a, p, n = _widened(anchors, positives, negatives)
    return jax.nn.softplus(margin - scale * jnp.sum(a * (p - n), axis=-1))


def triplet_sigmoid(anchors: jax.Array, positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """Returns the modelled probability that the negative is nearer than the positive.

    l = 1 / (1 + exp(<a, p> - <a, n>)). The paper's asymmetric form has real anchors x and
    quantized positives and negatives s_+ and s_-, with sub-vectors of length 1: quantize the
    latter two before.

    Args:
      anchors: Embeddings [T, D].
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].

    Returns:
      Loss of every triplet, [T], between 0 and 1, float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Yu et al., Product Quantization Network for Fast Image Retrieval, ECCV 2018.
    """
    a, p, n = _widened(anchors, positives, negatives)
    return jax.nn.sigmoid(jnp.sum(a * (n - p), axis=-1))


def triplet_quantization(
    anchors: jax.Array, positives: jax.Array, negatives: jax.Array, *, margin: float
) -> jax.Array:
    """Returns the triplet hinge loss on Hamming distances between binary codes.

    l = [m + D(b_a, b_p) - D(b_a, b_n)]_+, with b = sgn(f) and D(u, v) = ||u - v||^2 / (4 B), the
    fraction of the B bits that differ. The gradient passes the sign as if it were the identity
    inside [-1, 1], and not outside. The paper gives its loss in words; this is the first of our
    three reconstructions, and the default of `methods.triplet_quantization`.

    Args:
      anchors: Embeddings f before the sign, [T, D]; D is the paper's B.
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].
      margin: m, as a fraction of the bits.

    Returns:
      Loss of every triplet, [T], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Zhou et al., Deep Hashing with Triplet Quantization Loss, VCIP 2017.
    """
    a, p, n = (binary.clipped_sign(x) for x in _widened(anchors, positives, negatives))
    return jax.nn.relu(margin + _distance_difference(a, p, n) / (4 * a.shape[1]))


def asymmetric_triplet_quantization(
    anchors: jax.Array, positives: jax.Array, negatives: jax.Array, *, margin: float
) -> jax.Array:
    """Returns the triplet hinge loss on distances between real embeddings and fixed binary codes.

    l = 1/2 [m + D(f_a, b_p) - D(f_a, b_n)]_+ + 1/2 [m + D(b_a, f_p) - D(b_a, f_n)]_+, with
    b = sgn(f) held constant, so that codes pass no straight-through gradient, and
    D(u, v) = ||u - v||^2 / (4 B). The paper gives its loss in words; this is the second of our
    three reconstructions. The factor 1/2 keeps it on the scale of `triplet_quantization`.

    Args:
      anchors: Embeddings f before the sign, [T, D]; D is the paper's B.
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].
      margin: m, as a fraction of the bits.

    Returns:
      Loss of every triplet, [T], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Zhou et al., Deep Hashing with Triplet Quantization Loss, VCIP 2017.
    """
    a, p, n = _widened(anchors, positives, negatives)
    code_a, code_p, code_n = (jax.lax.stop_gradient(binary.sign(x)) for x in (a, p, n))
    scale = 4 * a.shape[1]
    to_codes = jax.nn.relu(margin + _distance_difference(a, code_p, code_n) / scale)
    from_codes = jax.nn.relu(margin + _distance_difference(code_a, p, n) / scale)
    return (to_codes + from_codes) / 2


def order_drop(anchors: jax.Array, positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """Returns how far binary codes shrink the distance gap between negative and positive.

    l = [g(f) - g(b)]_+, with g(u) = D(u_a, u_n) - D(u_a, u_p), b = sgn(f) and
    D(u, v) = (1 - cos(u, v)) / 2. For codes, D is ||u - v||^2 / (4 B), the fraction of bits that
    differ. For real embeddings of any length, D also lies between 0 and 1, so that the two gaps
    can be compared. g(f) is held constant: the loss widens the codes' gap and does not shrink the
    embeddings' gap. b passes its gradient inside [-1, 1] only, as in `triplet_quantization`. The
    paper gives its loss in words; this is the third of our three reconstructions.

    Args:
      anchors: Embeddings f before the sign, [T, D]; D is the paper's B.
      positives: Embeddings that share a label with their anchor, [T, D].
      negatives: Embeddings that share none, [T, D].

    Returns:
      Loss of every triplet, [T], float32 at least; 0 where the codes keep the gap.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Zhou et al., Deep Hashing with Triplet Quantization Loss, VCIP 2017.
    """
    real = _widened(anchors, positives, negatives)
    a, p, n = (jax.lax.stop_gradient(unit(x)) for x in real)
    code_a, code_p, code_n = (binary.clipped_sign(x) for x in real)
    # Two sums, not one of a (p - n): compilers fuse that with the division by lengths, and equal
    # points get a gap.
    gap_of_real = (jnp.sum(a * p, axis=-1) - jnp.sum(a * n, axis=-1)) / 2
    gap_of_codes = -_distance_difference(code_a, code_p, code_n) / (4 * a.shape[1])
    return jax.nn.relu(gap_of_real - gap_of_codes)


def _widened(anchors, positives, negatives):
    check_same("positives", positives, "anchors", anchors)
    check_same("negatives", negatives, "anchors", anchors)
    return widen(anchors), widen(positives), widen(negatives)


def _distance_difference(a, p, n):
    # ||a - p||^2 - ||a - n||^2, without the difference of two large squares.
    return jnp.sum((n - p) * (2 * a - p - n), axis=-1)
