"""Trains codebooks as moving averages of their rows, revives dead codewords, and measures usage.

The state holds codewords and their counts, not the usual running sums: sum = count * codeword, so
that no start, revival or restore can make sums and codewords disagree. Under pmap gather the
embeddings and assignments first (and give every device the same key), so that a batch statistic is
the global batch's.

Reference:
  van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS 2017,
  appendix A.1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_mask, check_shape, masked_rows, on_explicit_mesh
from quantjax.quantizers import product


class EmaState(NamedTuple):
    """State of the moving average: codebooks and counts, float32 for any input dtype.

    Attributes:
      codebooks: Codewords [M, K, d], each the average of its rows.
      counts: Moving average of the rows per batch that each codeword gets, [M, K].
    """

    codebooks: jax.Array
    counts: jax.Array


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
def ema_init(
    codebooks: jax.Array, assignments: jax.Array, mask: jax.Array | None = None
) -> EmaState:
    """Starts the moving average at given codebooks, with the codeword counts of one batch.

    Counts start from a real batch, so that they are not biased to zero and need no correction. A
    codeword without rows starts without weight: its first rows move it all the way.

    Args:
      codebooks: Codewords [M, K, d], of k-means say.
      assignments: Codeword numbers of one training batch, [B, M].
      mask: Whether each row counts, [B] bool; all when None.

    Returns:
      The state, with the given codebooks.

    Raises:
      ValueError: if the shapes do not agree.
    """
    product.check_codebooks(codebooks)
    _check_rows(assignments, mask, (len(assignments), codebooks.shape[0]))
    weights = jnp.ones(len(assignments)) if mask is None else mask
    counts = _counts(codebooks, assignments, jnp.asarray(weights, jnp.float32))
    return EmaState(jnp.asarray(codebooks, jnp.float32), counts)


@on_explicit_mesh()
def ema_update(
    state: EmaState,
    x: jax.Array,
    assignments: jax.Array,
    *,
    decay: float,
    mask: jax.Array | None = None,
) -> EmaState:
    """Moves codebooks and counts towards the batch's statistics by a share of 1 - decay.

    n' = decay n + (1 - decay) n_batch and n' c' = decay n c + (1 - decay) sum of its rows, written
    as c' = c + (1 - decay) (sum - n_batch c) / n'. Codewords at their batch's means stay there; a
    codeword without rows stays where it is and loses count.

    Args:
      state: From `ema_init` or the last update.
      x: Embeddings [B, M * d].
      assignments: Codeword numbers [B, M], of `product.encode` with the state's codebooks.
      decay: From 0, the batch alone, to below 1; VQ-VAE takes 0.99.
      mask: Whether each row counts, [B] bool; all when None.

    Returns:
      The next state.

    Raises:
      ValueError: if the shapes do not agree.
    """
    # Restored from a file the state may be NumPy's, which tracers cannot index.
    state = jax.tree.map(jnp.asarray, state)
    _check_state(state, x)
    _check_rows(assignments, mask, (len(x), len(state.codebooks)))
    x, counting = masked_rows(x, mask)
    weights = counting.astype(jnp.float32)
    batch = _counts(state.codebooks, assignments, weights)
    counts = state.counts + (1 - decay) * (batch - state.counts)
    pulls = _sums_of_gaps(state.codebooks, x, assignments, counting)
    codebooks = state.codebooks + (1 - decay) * pulls / jnp.where(counts > 0, counts, 1)[..., None]
    return EmaState(codebooks, counts)


@on_explicit_mesh()
def revive(
    key: jax.Array,
    state: EmaState,
    x: jax.Array,
    *,
    threshold: float,
    mask: jax.Array | None = None,
) -> EmaState:
    """Replaces each rarely used codeword by a random row, with the mean count of its codebook.

    Both codeword and count are replaced, so that a revived codeword starts as a used codeword. It
    stays alive for at least one batch if the decay is 0.5 or more.

    Args:
      key: Random key, consumed; a row of a batch goes to at most one codeword of each codebook
        while there are rows enough.
      state: The moving average.
      x: Embeddings [B, M * d] to draw from.
      threshold: In rows per batch, well below B / K; a codeword whose count is less is dead.
      mask: Whether each row may be drawn, [B] bool; all when None.

    Returns:
      The state, living codewords untouched.

    Raises:
      ValueError: if the shapes do not agree.
    """
    _check_state(state, x)
    x, usable = masked_rows(x, mask)
    num_codebooks = len(state.codebooks)
    # Without a usable row every codeword stays as it is.
    dead = (state.counts < threshold) & jnp.any(usable)
    draws = jax.random.uniform(key, (num_codebooks, x.shape[0]), jnp.float32)
    order = jnp.argsort(jnp.where(usable, draws, 2.0), axis=1)  # random, unusable ones last
    # The i-th dead codeword takes the i-th row in random order; short of rows, it starts over.
    turns = (jnp.cumsum(dead, axis=1) - 1) % jnp.maximum(jnp.sum(usable), 1)
    chosen = jnp.take_along_axis(order, turns, axis=1)
    slices = product.split(x, num_codebooks)
    fresh = jnp.take_along_axis(slices, chosen[..., None], axis=1)
    # Twice the threshold at least, so that a codebook of dead codewords does not stay dead.
    count = jnp.maximum(jnp.mean(state.counts, axis=1, keepdims=True), 2 * threshold)
    return EmaState(
        jnp.where(dead[..., None], fresh, state.codebooks), jnp.where(dead, count, state.counts)
    )


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
    x, mask = masked_rows(x, mask)
    assignments = product.encode(codebooks, x)
    counts = _counts(codebooks, assignments, mask.astype(jnp.int32))
    quantized = product.decode(jnp.asarray(codebooks, jnp.float32), assignments)
    errors = jnp.square(x - quantized).reshape(len(x), len(codebooks), -1)
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
    return _perplexity(jnp.asarray(counts, jnp.float32))


@jax.jit
def _perplexity(counts):
    # p log p is 0 at p = 0, as its limit is.
    shares = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1)
    logs = jnp.log(jnp.where(shares > 0, shares, 1))
    return jnp.exp(-jnp.sum(shares * logs, axis=-1))


def _counts(codebooks, assignments, weights):
    """Returns the summed weights [N] of each codeword's rows, [M, K], in the weights' dtype."""
    books = jnp.arange(codebooks.shape[0])
    counts = jnp.zeros(codebooks.shape[:2], weights.dtype)
    return counts.at[books, assignments].add(weights[:, None])


def _sums_of_gaps(codebooks, x, assignments, mask):
    """Sums x - c over each codeword's rows, which avoids the cancellation of sum - n c."""
    books = jnp.arange(codebooks.shape[0])
    slices = product.split(x, len(books)).transpose(1, 0, 2)
    gaps = jnp.where(mask[:, None, None], slices - codebooks[books, assignments], 0)
    return jnp.zeros_like(codebooks).at[books, assignments].add(gaps)


def _check_state(state, x):
    product.check_shapes(state.codebooks, x)
    check_finite("codebooks", state.codebooks)
    books = state.codebooks.shape
    check_shape("counts", state.counts, *books[:2], beside=f" for codebooks {books}")


def _check_rows(assignments, mask, due):
    check_shape("assignments", assignments, *due)
    check_mask(mask, due[0])
