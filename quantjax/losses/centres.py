"""Class centres for the proxy losses: one code of +1 and -1 for each class or row."""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape
from quantjax.errors import InputError
from quantjax.losses.rows import check_multi_hot


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


def _check_sizes(num_classes, num_bits):
    for name, size in (("num_classes", num_classes), ("num_bits", num_bits)):
        if size < 1:
            raise InputError(f"{name} must be 1 or more, got {size}")
