"""Finite scalar quantization (FSQ): each number of an embedding is rounded to one of a few levels.

There is no codebook to train: the codewords are the grid of all levels. To store codes, give
`ProductCodec` the grid of `codebooks`, and encode what `finite_scalar` returns.

Of two levels, lookup-free quantization (LFQ) is `binary.sign` in the network and in the loss the
mean of `losses.code_entropy` plus that of `losses.usage_entropy` of these weights:

    signs = jnp.tile(jnp.array([[-1.0], [1.0]]), (x.shape[1], 1, 1))
    soft = product.soft_assign(signs, x, temperature=temperature)

That is the paper's term divided by D, but for a constant and one bound: the entropy of the batch's
whole codes, of which there are 2^D, is replaced by the sum of its bits' entropies.

Reference:
  Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, ICLR 2024.
  Yu et al., Language Model Beats Diffusion: Tokenizer is Key to Visual Generation, ICLR 2024.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import check_finite, check_shape
from quantjax.errors import InputError
from quantjax.quantizers import product
from quantjax.quantizers.straight_through import straight_through


def finite_scalar(x: jax.Array, *, levels: Sequence[int]) -> jax.Array:
    """Rounds each number to one of its levels; the gradient is that of the bound before rounding.

    q = round(f(x)) / floor(L / 2) with f(x) = h tanh(x + s) - o, h = (1 - 1e-3) (L - 1) / 2, and
    s = o = 0 for an odd L; for an even L, o = 1/2 and s = artanh(o / h), so that f(0) = 0. The
    paper's listing has tan in place of artanh, which its author calls a mistake.

    Args:
      x: Embeddings [N, D], without a saturating activation.
      levels: L of each of the D numbers, from 3 to 256; the paper takes 5 or more.

    Returns:
      Quantized embeddings [N, D] between -1 and 1, in x's dtype; float32 where x holds integers.

    Raises:
      ValueError: if x is not [N, D], or a number of levels is not from 3 to 256.

    Reference:
      Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, ICLR 2024.
    """
    number = _checked(levels)
    check_shape("x", x, "N", len(number))
    check_finite("x", x)
    half_range = (1 - 1e-3) * (number - 1) / 2
    offset = np.where(number % 2 == 0, 0.5, 0.0)
    shift = np.arctanh(offset / half_range)
    half_range, offset, shift = (jnp.asarray(a, jnp.float32) for a in (half_range, offset, shift))
    bounded = half_range * jnp.tanh(jnp.asarray(x, jnp.float32) + shift) - offset
    rounded = straight_through(jnp.round(bounded), bounded)
    return (rounded / (number // 2)).astype(product.floating(x.dtype))


def codebooks(levels: Sequence[int]) -> jax.Array:
    """Returns the levels of `finite_scalar` as codebooks of a product codec, one for each number.

    A code takes ceil(log2 max L) bits for each number.

    Args:
      levels: L of each of the D numbers, from 3 to 256.

    Returns:
      Codebooks [D, K, 1] float32, K a power of two; behind the last level it is repeated.

    Raises:
      ValueError: if a number of levels is not from 3 to 256.
    """
    number = _checked(levels)[:, None]
    places = np.arange(1 << int(number.max() - 1).bit_length())
    grid = (np.minimum(places, number - 1) - number // 2) / (number // 2)
    return jnp.asarray(grid[:, :, None], jnp.float32)


def _checked(levels):
    number = np.asarray(levels)
    if number.ndim != 1 or not number.size or number.dtype.kind not in "iu":
        raise InputError(f"levels must be one whole number for each of D numbers, got {levels}")
    if number.min() < 3 or number.max() > 256:
        # Of two levels the shift would send almost every x to the same one.
        raise InputError(f"levels must be from 3 to 256, got {levels}; binary.sign has two")
    return number
