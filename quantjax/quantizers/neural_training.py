"""Fits the codebooks and networks of `quantizers.neural_residual` by gradient descent.

Training starts at residual quantization. Every batch is encoded by the search that `encode` uses;
the gradient of the squared error of all M sums goes through the codewords and networks of the codes
that were found. The look-up table, which has no gradient, follows the mean residual of each
codeword's rows. The papers train this table too, and draw the codebooks about those of residual
quantization; here they start at them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape
from quantjax.errors import InputError
from quantjax.quantizers import additive, neural_residual
from quantjax.quantizers.neural_residual import Networks

_WARM_UP = 100  # training steps until the learning rate is whole
_DECAY = 0.99  # of the means in the look-up tables, for each training step


class FitState(NamedTuple):
    """Holds all that training changes; a pytree that can be saved between epochs.

    Attributes:
      key: Random key of the whole training.
      epoch: Epochs done, an array.
      step: Training steps done, an array.
      networks: Trained so far, for rows (x - mean) / scale.
      moments: Adam's moving means of the gradient and of its square.
      counts: Moving numbers of rows [M, K] behind `networks.lookup`.
      mean: Mean of the training rows, [D].
      scale: Root of their mean squared distance to the mean, per dimension.
    """

    key: jax.Array
    epoch: jax.Array
    step: jax.Array
    networks: Networks
    moments: tuple[Networks, Networks]
    counts: jax.Array
    mean: jax.Array
    scale: jax.Array


def init(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    hidden_width: int,
    num_blocks: int,
) -> FitState:
    """Starts training at residual quantization, see `additive.fit_codebooks`.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D]; every row counts, there is no mask.
      num_codebooks: M.
      num_codewords: K, at most 256 and at most N.
      hidden_width: H.
      num_blocks: L.

    Returns:
      The state before the first epoch.

    Raises:
      ValueError: if x is not [N, D], a size is below 1, K above 256, or N below K.
    """
    for name, size in (("hidden_width", hidden_width), ("num_blocks", num_blocks)):
        if size < 1:
            raise InputError(f"{name} must be at least 1, got {size}")
    check_shape("x", x, "N", "D")
    check_finite("x", x)
    x = jnp.asarray(x, jnp.float32)
    mean = jnp.mean(x, axis=0)
    scale = jnp.sqrt(jnp.mean(jnp.square(x - mean)))
    scale = jnp.where(scale > 0, scale, 1)
    fit_key, draw_key, key = jax.random.split(key, 3)
    sizes = {"num_codebooks": num_codebooks, "num_codewords": num_codewords}
    books = additive.fit_codebooks(fit_key, (x - mean) / scale, **sizes)
    steps, width = num_codebooks - 1, x.shape[1]
    weights = jax.random.normal(draw_key, (steps, num_blocks, width, hidden_width), jnp.float32)
    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    networks = Networks(
        codebooks=books,
        mixing=zeros((steps, 2 * width, width)),
        offsets=zeros((steps, width)),
        expansions=weights * jnp.sqrt(2 / width),
        # Zeros: every network starts as the identity of its codeword.
        contractions=zeros((steps, num_blocks, hidden_width, width)),
        lookup=books,
    )
    moments = (jax.tree.map(jnp.zeros_like, networks),) * 2
    counts = jnp.full(books.shape[:2], len(x) / num_codewords * (1 - _DECAY), jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    return FitState(key, zero, zero, networks, moments, counts, mean, scale)


@functools.partial(
    jax.jit,
    static_argnames=("num_epochs", "batch_size", "beam_width", "num_candidates"),
)
def fit_epoch(
    state: FitState,
    x: jax.Array,
    *,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    beam_width: int,
    num_candidates: int,
) -> tuple[FitState, jax.Array]:
    """Trains for one epoch; see `fit`.

    Args:
      state: Result of `init` or of the epoch before.
      x: The embeddings [N, D] that `init` saw.
      num_epochs: Epochs in all, over which the learning rate falls to 0.
      batch_size: Rows of a training step.
      learning_rate: Adam's largest.
      beam_width: Sums kept in the search for codes.
      num_candidates: Pairs that a step's network is run on.

    Returns:
      The state, and the mean squared error over the epoch's batches as they came.
    """
    rows = (jnp.asarray(x, jnp.float32) - state.mean) / state.scale
    steps = len(rows) // batch_size
    order = jax.random.permutation(jax.random.fold_in(state.key, state.epoch), len(rows))
    batches = order[: steps * batch_size].reshape(steps, batch_size)

    def train(state, batch):
        # Half a cosine, after a linear start.
        done = state.step / (num_epochs * steps)
        rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
        rate = rate * jnp.minimum(1, (state.step + 1) / _WARM_UP)
        # Where JAX has float64, whole numbers divide to it.
        rate = rate.astype(jnp.float32)
        return _train(state, rows[batch], rate, beam_width, num_candidates)

    state, errors = jax.lax.scan(train, state, batches)
    error = jnp.mean(errors) * jnp.square(state.scale)
    return state._replace(epoch=state.epoch + 1), error


def fit(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    hidden_width: int = 256,
    num_blocks: int = 1,
    num_epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    beam_width: int = 4,
    num_candidates: int = 8,
    on_epoch: Callable[[int, float], None] = lambda epoch, error: None,
) -> Networks:
    """Fits codebooks and networks by gradient descent on the squared error of every step's sum.

    To train in several pieces, call `init` and `fit_epoch`, and save the state between epochs:
    equal keys give equal networks either way.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D]; every row counts, there is no mask.
      num_codebooks: M.
      num_codewords: K, at most 256 and at most N.
      hidden_width: H.
      num_blocks: L.
      num_epochs: Passes over the rows.
      batch_size: Rows of a training step, at most N.
      learning_rate: Adam's largest.
      beam_width: Sums kept in the search for codes, at most K.
      num_candidates: Pairs that a step's network is run on, see `neural_residual.encode`.
      on_epoch: Called after each epoch with the number of epochs done and their latest error.

    Returns:
      Codebooks and networks.

    Raises:
      ValueError: if x is not [N, D], a number is out of its range, or there are fewer rows than K
        or than a batch.
    """
    neural_residual.check_search(num_codewords, beam_width, num_candidates)
    if not 1 <= batch_size <= len(x):
        raise InputError(f"batch_size must be from 1 to {len(x)}, the rows, got {batch_size}")
    sizes = {"num_codebooks": num_codebooks, "num_codewords": num_codewords}
    state = init(key, x, **sizes, hidden_width=hidden_width, num_blocks=num_blocks)
    for epoch in range(num_epochs):
        state, error = fit_epoch(
            state,
            x,
            num_epochs=num_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            beam_width=beam_width,
            num_candidates=num_candidates,
        )
        on_epoch(epoch + 1, float(error))
    return networks_of(state)


def networks_of(state: FitState) -> Networks:
    """Returns the networks of a training state, for rows in their own units.

    Scale and mean of the rows go into the weights: f_m(s c, s x) = s f_m(c, x) where b_m is scaled
    alike, for relu is.

    Args:
      state: Training state.
    """
    networks, mean, scale = state.networks, state.mean, state.scale
    width = len(mean)
    of_mean = jnp.einsum("d,mde->me", mean, networks.mixing[:, width:])
    first = (jnp.arange(len(networks.codebooks)) == 0)[:, None, None]
    return networks._replace(
        codebooks=networks.codebooks * scale + first * mean,
        offsets=networks.offsets * scale - of_mean,
        lookup=networks.lookup * scale + first * mean,
    )


def _train(state, x, rate, beam_width, num_candidates):
    """Returns the state after one batch, and the batch's mean squared error before it."""
    numbers = neural_residual.search(state.networks, x, beam_width, num_candidates)

    def loss(networks):
        sums = neural_residual.sums(networks, numbers)
        errors = jnp.mean(jnp.sum(jnp.square(x - sums), axis=-1), axis=1)
        return jnp.sum(errors), (errors[-1], sums)

    gradient, (error, sums) = jax.grad(loss, has_aux=True)(state.networks)
    step = state.step + 1
    networks, moments = _adam(
        state.networks, gradient, state.moments, step.astype(jnp.float32), rate
    )
    residuals = x - jnp.concatenate([jnp.zeros_like(x)[None], sums[:-1]])
    lookup, counts = _moving_means(state.networks.lookup, state.counts, residuals, numbers.T)
    networks = networks._replace(lookup=lookup)
    state = state._replace(step=step, networks=networks, moments=moments, counts=counts)
    return state, error


def _adam(params, gradient, moments, step, rate):
    """Returns parameters and moments after a step of Adam with the usual constants."""
    means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)

    def moved(p, m, v):
        return p - rate * m / (1 - 0.9**step) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return jax.tree.map(moved, params, means, squares), (means, squares)


def _moving_means(means, counts, rows, numbers):
    """Moves means [M, K, D] of counts [M, K] by rows [M, N, D] of codeword numbers [M, N]."""

    def moved(mean, count, rows, numbers):
        kept = _DECAY * count
        count = kept.at[numbers].add(1)
        sums = (mean * kept[:, None]).at[numbers].add(rows)
        # Below one millionth of a row a mean would be rounding; it stays.
        return jnp.where(count[:, None] > 1e-6, sums / count[:, None], mean), count

    return jax.vmap(moved)(means, counts, rows, numbers)
