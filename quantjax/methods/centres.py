"""Makes the centres of classes for methods that pull the signs of an image to its class's code."""

import math

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.errors import InputError

TIES = 0
"""Seed of the bits of images whose labels vote evenly; the same at every step."""


def make(key: jax.Array, num_classes: int, bits: int) -> jax.Array:
    """Makes a centre for each class: rows of a Hadamard matrix where it is large enough.

    Args:
      key: Random key, consumed where the rows do not suffice.
      num_classes: L.
      bits: D, the length of a code.

    Returns:
      Centres [L, D] of +1 and -1: the rows of [H; -H] for D a power of two and L <= 2 D, and those
      of `make_random` otherwise.

    Raises:
      ValueError: if there are more classes than codes.
    """
    if bits & (bits - 1) == 0 and num_classes <= 2 * bits:
        return losses.hadamard_centres(num_classes, bits)
    return make_random(key, num_classes, bits)


def make_random(key: jax.Array, num_classes: int, bits: int) -> jax.Array:
    """Makes random centres, balanced and far apart where the classes are few for the code.

    Args:
      key: Random key, consumed.
      num_classes: L.
      bits: D, the length of a code.

    Returns:
      Centres [L, D] of +1 and -1: `losses.bernoulli_centres` for up to half as many classes as
      there are balanced codes, and otherwise distinct codes drawn from all 2^D.

    Raises:
      ValueError: if there are more classes than codes.
    """
    if num_classes > 2**bits:
        raise InputError(
            f"{num_classes} classes need {num_classes} distinct codes, and {bits} bits have "
            f"{2**bits}; take {math.ceil(math.log2(num_classes))} bits or more"
        )
    # Draws of balanced codes would repeat where they are few: two classes would be one.
    if 2 * num_classes <= math.comb(bits, bits // 2):
        return losses.bernoulli_centres(key, num_classes, bits)
    # Without replacement, from all codes: balanced codes would not suffice.
    numbers = jax.random.permutation(key, 2**bits)[:num_classes]
    ones = (numbers[:, None] >> jnp.arange(bits)) & 1
    return jnp.where(ones, 1, -1).astype(jnp.float32)


def of_rows(labels: jax.Array, centres: jax.Array) -> jax.Array:
    """Returns the centre of each row, [B, D]: the majority vote of its labels' centres.

    Args:
      labels: Multi-hot labels [B, L].
      centres: Centres [L, D] of +1 and -1.
    """
    # One key for all of training and every device: an image keeps its centre.
    return losses.class_centres(jax.random.key(TIES), labels, centres)
