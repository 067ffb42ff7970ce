"""Trains codebooks as moving averages of the assigned embeddings, and revives dead codewords.

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

from quantjax.arrays import check_finite, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.quantizers import product, rows


class EmaState(NamedTuple):
    """State of the moving average: codebooks and counts, float32 for any input dtype.

    Attributes:
      codebooks: Codewords [M, K, d], each the average of its rows.
      counts: Moving average of the rows per batch that each codeword gets, [M, K].
    """

    codebooks: jax.Array
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
    return EmaState(
        jnp.asarray(codebooks, jnp.float32),
        _counts(codebooks, assignments, _weights(assignments, mask)),
    )


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
    state = jax.tree.map(jnp.asarray, state)
    _check_state(state, x)
    _check_rows(assignments, mask, (len(x), len(state.codebooks)))
    x, counting = rows.counted(x, mask)
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
    x, usable = rows.counted(x, mask)
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
    count = jnp.maximum(jnp.mean(state.counts, axis=1, keepdims=True), 2 * threshold)
    return EmaState(
        jnp.where(dead[..., None], fresh, state.codebooks), jnp.where(dead, count, state.counts)
    )


def _weights(assignments, mask):
    return jnp.asarray(jnp.ones(len(assignments)) if mask is None else mask, jnp.float32)


def _counts(codebooks, assignments, weights):
    books = jnp.arange(codebooks.shape[0])
    counts = jnp.zeros(codebooks.shape[:2], jnp.float32)
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
    if state.counts.shape != state.codebooks.shape[:2]:
        raise InputError(
            f"counts must have shape {state.codebooks.shape[:2]} for codebooks "
            f"{state.codebooks.shape}, got {state.counts.shape}"
        )


def _check_rows(assignments, mask, due):
    if assignments.shape != due:
        raise InputError(f"assignments must have shape {due}, got {assignments.shape}")
    _check_mask(mask, due[0])


def _check_mask(mask, num_rows):
    if mask is not None and mask.shape != (num_rows,):
        raise InputError(f"mask must have shape {(num_rows,)}, got {mask.shape}")
