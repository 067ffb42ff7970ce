"""Proxy losses: compare each embedding with its class's code or weights, [B, D] -> [B].

These losses need no pairs. A class's code is its centre: `hadamard_centres` and `bernoulli_centres`
make one for each class, and `class_centres` makes one for each row of several labels.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.errors import InputError
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


def hadamard_centres(num_classes: int, num_bits: int) -> jax.Array:
    """Returns class centres from the first rows of [H; -H], with H Sylvester's Hadamard matrix.

    H_ij = (-1)^popcount(i & j): two centres differ in half of the bits, or in all of them. The
    rows are taken in order, as in public code. Bit 0 is therefore +1 in each of the first
    `num_bits` centres and does not distinguish them.

    Args:
      num_classes: Number of centres L, 2 * num_bits at most.
      num_bits: Code length D, a power of two.

    Returns:
      Centres [L, D] of +1 and -1, float32.

    Raises:
      ValueError: if num_bits is not a power of two, or the matrix has too few rows.

    Reference:
      Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval,
      CVPR 2020, algorithm 1.
    """
    _check_sizes(num_classes, num_bits)
    if num_bits & (num_bits - 1):
        raise InputError(
            f"num_bits must be a power of two, got {num_bits}; bernoulli_centres takes any"
        )
    if num_classes > 2 * num_bits:
        raise InputError(
            f"num_classes must be at most 2 * num_bits = {2 * num_bits}, got {num_classes}; "
            "bernoulli_centres takes any"
        )
    # By entry: doubling the matrix step by step would compile a program for each size.
    bits = jnp.arange(num_bits)
    odd = jax.lax.population_count(bits[:, None] & bits) % 2
    hadamard = jnp.where(odd == 0, 1, -1).astype(jnp.float32)
    return jnp.concatenate((hadamard, -hadamard))[:num_classes]


def bernoulli_centres(
    key: jax.Array, num_classes: int, num_bits: int, *, num_candidates: int = 20
) -> jax.Array:
    """Draws random class centres that are far apart, with half of each centre's bits -1.

    CSQ draws all centres at once until their smallest distance exceeds D/4 and their mean distance
    reaches D/2; public code gives up after 20 draws and keeps the last (for 100 classes of 32 bits
    none of 2,000 draws passed). Here every class takes the candidate, of `num_candidates` draws,
    that is farthest from the nearest centre so far. This is jittable, and for 100 classes of 32
    bits both conditions hold. No number of classes raises an error: with too many classes for the
    bits, centres move closer together and may coincide.

    Args:
      key: Random key.
      num_classes: Number of centres L.
      num_bits: Code length D; an odd one has num_bits // 2 bits of -1.
      num_candidates: Draws per class; 1 gives independent centres.

    Returns:
      Centres [L, D] of +1 and -1, float32.

    Raises:
      ValueError: if a size is less than one.

    Reference:
      Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval,
      CVPR 2020, algorithm 1.
    """
    _check_sizes(num_classes, num_bits)
    if num_candidates < 1:
        raise InputError(f"num_candidates must be 1 or more, got {num_candidates}")
    balanced = jnp.where(jnp.arange(num_bits) < num_bits // 2, -1, 1).astype(jnp.float32)

    def add_one(centres, numbered_key):
        number, key = numbered_key
        draws = jnp.tile(balanced, (num_candidates, 1))
        draws = jax.random.permutation(key, draws, axis=1, independent=True)
        distances = (num_bits - draws @ centres.T) / 2
        chosen = jnp.arange(num_classes) < number
        # Centres not yet drawn are zeros and must not count; `initial` serves the first class.
        nearest = jnp.min(distances, axis=1, where=chosen, initial=num_bits)
        return centres.at[number].set(draws[jnp.argmax(nearest)]), None

    keys = jax.random.split(key, num_classes)
    nothing = jnp.zeros((num_classes, num_bits), jnp.float32)
    centres, _ = jax.lax.scan(add_one, nothing, (jnp.arange(num_classes), keys))
    return centres


def class_centres(key: jax.Array, labels: jax.Array, centres: jax.Array) -> jax.Array:
    """Returns one centre per row: each bit is the majority vote of the row's label centres.

    c_i = sgn(sum_l y_il c_l); a tie takes the bit of one random code, which depends on `key`
    alone: with one key for the whole training an item has one centre, in every step and on every
    device. For class ids, `centres[ids]` is all it takes.

    Args:
      key: Random key, the same one at every step.
      labels: Multi-hot labels [B, L] of zeros and ones; a row without any gets the random code.
      centres: Centres [L, D] of +1 and -1.

    Returns:
      Centres of the rows, [B, D] of +1 and -1, in the type of `centres`.

    Raises:
      ValueError: if the shapes do not agree, or labels are not zeros and ones (not checked
        inside jit).

    Reference:
      Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval,
      CVPR 2020, section 3.2.
    """
    check_shape("labels", labels, "B", "L")
    check_multi_hot("labels", labels)
    check_shape("centres", centres, labels.shape[1], "D")
    centres = jnp.asarray(centres)
    # Sums of +1 and -1 are exact in float32, so that ties are exactly 0.
    votes = (labels > 0).astype(jnp.float32) @ centres.astype(jnp.float32)
    tie = jax.random.rademacher(key, (centres.shape[1],), jnp.float32)
    return jnp.sign(jnp.where(votes == 0, tie, votes)).astype(centres.dtype)


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


def _check_sizes(num_classes, num_bits):
    for name, size in (("num_classes", num_classes), ("num_bits", num_bits)):
        if size < 1:
            raise InputError(f"{name} must be 1 or more, got {size}")
