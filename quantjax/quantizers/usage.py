"""Statistics of codeword usage, which show whether a codebook collapses to few codewords."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, on_explicit_mesh
from quantjax.quantizers import product, rows


class Usage(NamedTuple):
    """Usage statistics of each codebook, over the rows that count.

    Attributes:
      perplexity: exp of the entropy of the codewords' shares, from 1 to K; [M] float32.
      dead: Codewords without a row, [M] int32.
      distortion: Mean squared distance of the slices to their codewords, [M] float32; the sum over
        M is the mean of `losses.quantization_error`.
      counts: Rows of each codeword, [M, K] int32.
    """

    perplexity: jax.Array
    dead: jax.Array
    distortion: jax.Array
    counts: jax.Array


@on_explicit_mesh()
def usage(codebooks: jax.Array, x: jax.Array, mask: jax.Array | None = None) -> Usage:
    """Returns how often each codeword of product codebooks is used, with perplexity and distortion.

    Under pmap gather x first: a mean of the devices' perplexities is no perplexity.

    Args:
      codebooks: Codewords [M, K, d], K at most 256.
      x: Embeddings [N, M * d].
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Statistics per codebook.

    Raises:
      ValueError: if the shapes do not agree.
    """
    product.check_shapes(codebooks, x)
    x, mask = rows.counted(x, mask)
    assignments = product.encode(codebooks, x)
    books = jnp.arange(codebooks.shape[0])
    counts = jnp.zeros(codebooks.shape[:2], jnp.int32)
    counts = counts.at[books, assignments].add(jnp.asarray(mask, jnp.int32)[:, None])
    quantized = product.decode(jnp.asarray(codebooks, jnp.float32), assignments)
    errors = jnp.square(x - quantized).reshape(len(x), len(books), -1)
    errors = jnp.where(mask[:, None], jnp.sum(errors, axis=-1), 0)
    return Usage(
        perplexity=perplexity(counts),
        dead=jnp.sum(counts == 0, axis=1, dtype=jnp.int32),
        distortion=jnp.sum(errors, axis=0) / jnp.maximum(jnp.sum(mask), 1),
        counts=counts,
    )


def perplexity(counts: jax.Array) -> jax.Array:
    """Returns the perplexity of codeword counts: the effective number of codewords in use.

    Args:
      counts: Rows of each codeword, [..., K]; add those of several batches up first.

    Returns:
      exp(-sum_k p_k log p_k) with p = counts / sum(counts), [...] float32; 1 where all are zero.
    """
    check_finite("counts", counts)
    counts = jnp.asarray(counts, jnp.float32)
    shares = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1)
    logs = jnp.log(jnp.where(shares > 0, shares, 1))
    return jnp.exp(-jnp.sum(shares * logs, axis=-1))
