"""Gumbel-softmax: random, differentiable assignment of embeddings to codewords.

The draw of a row is a function of the key and the row's number: a batch sharded under `jit` draws
as on one device, but under pmap every device would draw the same for its rows; fold in
`jax.lax.axis_index` there.

Reference:
  Jang, Gu, Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017.
  Maddison, Mnih, Teh, The Concrete Distribution, ICLR 2017.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_positive
from quantjax.quantizers import product
from quantjax.quantizers.straight_through import straight_through


def gumbel_assign(
    key: jax.Array, codebooks: jax.Array, x: jax.Array, *, temperature: float
) -> jax.Array:
    """Draws soft assignments of each slice to the codewords by the Gumbel-softmax.

    softmax((-||x - c||^2 + g) / temperature) with Gumbel noise g. The largest weight is that of
    codeword k with probability proportional to exp(-||x - c_k||^2), at every temperature; scale
    embeddings and codebooks to draw more or less widely.

    Args:
      key: Random key, consumed.
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].
      temperature: Temperature of the relaxation; weights harden to a one-hot draw as it falls to 0.

    Returns:
      Weights [M, N, K] that sum to 1 over K, float32. For the straight-through variant hand these
      and the one-hot of their argmax to `straight_through`, or call `gumbel_quantize`.

    Raises:
      ValueError: if the shapes do not agree, K is above 256, or temperature is not above 0.
    """
    check_positive("temperature", temperature)
    gaps = product.distance_gaps(codebooks, x)
    noise = jax.random.gumbel(key, gaps.shape, gaps.dtype)
    return jax.nn.softmax((noise - gaps) / temperature, axis=-1)


def gumbel_quantize(
    key: jax.Array, codebooks: jax.Array, x: jax.Array, *, temperature: float
) -> jax.Array:
    """Replaces each slice by a randomly drawn codeword, with the gradient of the soft draw.

    a C with a = soft + stop_gradient(one_hot(argmax soft) - soft), soft = `gumbel_assign`: as
    `product.quantize`, but that the codeword is drawn and not the nearest. Second derivatives mean
    nothing.

    Args:
      key: Random key, consumed.
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].
      temperature: Temperature of the relaxation.

    Returns:
      Drawn codewords side by side, [N, M * d], in x's dtype; float32 where x holds
      integers.

    Raises:
      ValueError: if the shapes do not agree, K is above 256, or temperature is not above 0.
    """
    # Widened once, for both uses: the gradient is summed over them before it is rounded.
    books, wide = jnp.asarray(codebooks, jnp.float32), jnp.asarray(x, jnp.float32)
    soft = gumbel_assign(key, books, wide, temperature=temperature)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1], dtype=soft.dtype)
    # One-hot, not a look-up of the drawn codeword: so the codebooks get the soft gradient, too.
    weights = straight_through(hard, soft)
    return product.mixtures(weights, books).astype(product.floating(x.dtype))
