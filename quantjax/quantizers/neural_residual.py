"""Neural residual quantization: the codewords of a step depend on the sum of the steps before.

Item n is the sum of M terms. The first is a codeword; term m is a network's output for a codeword
and for the sum so far, x_m = x_(m-1) + f_m(c_m(a_nm), x_(m-1)), where

    z_0 = c + W_m [c; x] + b_m,   z_l = z_(l-1) + V_ml relu(U_ml z_(l-1)),   f_m(c, x) = z_L.

With W, b and V at zero it is residual quantization, and training starts there. The decoder is that
of FAISS's `IndexQINCo`. The search for codes is ours: a step finds the pairs of a sum in the beam
and a codeword whose mean residual is nearest, runs the network on these candidates alone, and keeps
a beam of the best sums.

References:
  Huijben et al., Residual Quantization with Implicit Neural Codebooks, ICML 2024, arXiv 2401.14732.
  Vallaeys et al., Qinco2: Vector Compression and Search with Improved Implicit Neural Codebooks,
  ICLR 2025, arXiv 2501.03078 (candidates and beam; there the look-up tables are trained).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.quantizers import additive, kmeans, packing

_WARM_UP = 100  # training steps until the learning rate is whole
_DECAY = 0.99  # of the means in the look-up tables, for each training step
_MATMUL = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Networks(NamedTuple):
    """Holds the codebooks and the network of each step but the first, which has none.

    Attributes:
      codebooks: Codewords [M, K, D].
      mixing: Weights [M - 1, 2 D, D] of a codeword and the sum before it, W transposed.
      offsets: Biases [M - 1, D], b.
      expansions: Weights [M - 1, L, D, H] of each block's hidden layer, U transposed.
      contractions: Weights [M - 1, L, H, D] of each block's output, V transposed.
      lookup: Mean residual [M, K, D] of the rows of each codeword; decoding does not read it.
    """

    codebooks: jax.Array
    mixing: jax.Array
    offsets: jax.Array
    expansions: jax.Array
    contractions: jax.Array
    lookup: jax.Array


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


class _Step(NamedTuple):
    """One step's part of `Networks`."""

    codebook: jax.Array
    mixing: jax.Array
    offset: jax.Array
    expansions: jax.Array
    contractions: jax.Array
    lookup: jax.Array


@on_explicit_mesh(rows="x")
def encode(
    networks: Networks, x: jax.Array, *, beam_width: int = 1, num_candidates: int | None = None
) -> jax.Array:
    """Encodes embeddings step by step, each network run on the candidates of the look-up table.

    Args:
      networks: Codebooks and networks.
      x: Embeddings [N, D].
      beam_width: Sums kept from step to step, at most K; 1 is greedy.
      num_candidates: Pairs of a sum and a codeword that a step's network is run on, those of the
        nearest mean residuals, from `beam_width` to beam_width * K; all when None, which takes
        that many times as long.

    Returns:
      Assignments [N, M] uint8.

    Raises:
      ValueError: if the shapes do not agree, or one of the two numbers is out of its range.
    """
    check(networks)
    _, num_codewords, width = networks.codebooks.shape
    if num_candidates is None:
        num_candidates = beam_width * num_codewords
    check_search(num_codewords, beam_width, num_candidates)
    check_shape("x", x, "N", width, beside=f" for codebooks {networks.codebooks.shape}")
    check_finite("x", x)
    return _encode(networks, x, beam_width, num_candidates)


@on_explicit_mesh(rows="assignments")
def decode(networks: Networks, assignments: jax.Array) -> jax.Array:
    """Decodes assignments to embeddings: the sum of each item's codeword and M - 1 outputs.

    Args:
      networks: Codebooks and networks.
      assignments: Codeword numbers [N, M].

    Returns:
      Reconstructed embeddings [N, D] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check(networks)
    check_shape("assignments", assignments, "N", len(networks.codebooks))
    return _decode(networks, assignments)


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
    weights = jax.random.normal(draw_key, (steps, num_blocks, width, hidden_width))
    networks = Networks(
        codebooks=books,
        mixing=jnp.zeros((steps, 2 * width, width)),
        offsets=jnp.zeros((steps, width)),
        expansions=weights * jnp.sqrt(2 / width),
        # Zeros: every network starts as the identity of its codeword.
        contractions=jnp.zeros((steps, num_blocks, hidden_width, width)),
        lookup=books,
    )
    zeros = jax.tree.map(jnp.zeros_like, networks)
    counts = jnp.full(books.shape[:2], len(x) / num_codewords * (1 - _DECAY))
    zero = jnp.zeros((), jnp.int32)
    return FitState(key, zero, zero, networks, (zeros, zeros), counts, mean, scale)


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
    num_epochs: int = 20,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    beam_width: int = 4,
    num_candidates: int = 16,
    on_epoch: Callable[[int, float], None] = lambda epoch, error: None,
) -> Networks:
    """Fits codebooks and networks by gradient descent on the squared error of every step's sum.

    Each batch is encoded, and the gradient goes through its codes' codewords and networks alone.
    The search for codes takes nearly all of the time. To train in several pieces, call `init` and
    `fit_epoch`, and save the state between epochs: equal keys give equal networks either way.

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
      num_candidates: Pairs that a step's network is run on, see `encode`.
      on_epoch: Called after each epoch with the number of epochs done and their latest error.

    Returns:
      Codebooks and networks.

    Raises:
      ValueError: if x is not [N, D], a number is out of its range, or there are fewer rows than K
        or than a batch.
    """
    check_search(num_codewords, beam_width, num_candidates)
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


def check(networks: Networks) -> None:
    """Raises ValueError if codebooks, weights and look-up tables do not fit each other."""
    additive.check_codebooks(networks.codebooks)
    count, size, width = networks.codebooks.shape
    check_shape("expansions", networks.expansions, count - 1, "L", width, "H")
    _, blocks, _, hidden = networks.expansions.shape
    due = {
        "mixing": (count - 1, 2 * width, width),
        "offsets": (count - 1, width),
        "contractions": (count - 1, blocks, hidden, width),
        "lookup": (count, size, width),
    }
    for name, shape in due.items():
        check_shape(name, getattr(networks, name), *shape)
    for name in Networks._fields[1:]:
        check_finite(name, getattr(networks, name))


def check_search(num_codewords: int, beam_width: int, num_candidates: int) -> None:
    """Raises ValueError if a beam is no part of the codewords, or the candidates of the pairs."""
    packing.check_num_codewords(num_codewords)
    ends = {
        "beam_width": (beam_width, 1, num_codewords),
        "num_candidates": (num_candidates, beam_width, beam_width * num_codewords),
    }
    for name, (number, least, most) in ends.items():
        if not least <= number <= most:
            raise InputError(f"{name} must be from {least} to {most}, got {number}")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _encode(networks, x, beam_width, num_candidates):
    networks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), networks)
    search = functools.partial(_search, networks, beam_width, num_candidates)
    return kmeans.over_tiles(search, jnp.asarray(x, jnp.float32))


def _search(networks, beam_width, num_candidates, x):
    """Returns assignments [N, M] of the best of each row's beam."""
    num_codebooks = len(networks.codebooks)
    book = networks.codebooks[0]
    _, first = jax.lax.top_k(-_gaps(x, book), beam_width)
    numbers = jnp.zeros((*first.shape, num_codebooks), jnp.uint8)
    beams = book[first], numbers.at[..., 0].set(first.astype(jnp.uint8))

    def extend(beams, step):
        return _extend(x, beams, *step, num_candidates), None

    steps = _steps(networks), jnp.arange(1, num_codebooks)
    (_, numbers), _ = jax.lax.scan(extend, beams, steps)
    return numbers[:, 0]


def _extend(x, beams, step, number, num_candidates):
    """Extends sums [N, B, D] and their assignments [N, B, M] by one step, and keeps the best B."""
    sums, numbers = beams
    beam_width = sums.shape[1]
    residuals = x[:, None] - sums
    beam, chosen = _candidates(residuals, step.lookup, num_candidates)
    sums, numbers, residuals = (_of_beam(each, beam) for each in (sums, numbers, residuals))
    terms = _output(step, chosen, sums)
    errors = jnp.sum(jnp.square(residuals - terms), axis=-1)
    _, best = jax.lax.top_k(-errors, beam_width)
    numbers = numbers.at[..., number].set(chosen.astype(jnp.uint8))
    return _of_beam(sums + terms, best), _of_beam(numbers, best)


def _candidates(residuals, lookup, count):
    """Returns the pairs [N, count] of a sum's number in the beam and a codeword, nearest first."""
    num_rows, beam_width, _ = residuals.shape
    size = len(lookup)
    if count == beam_width * size:  # all pairs, in order: the lowest number wins a tie
        best = jnp.broadcast_to(jnp.arange(count), (num_rows, count))
    else:
        gaps = _gaps(residuals, lookup)
        squares = jnp.sum(jnp.square(residuals), axis=-1, keepdims=True)
        _, best = jax.lax.top_k(-(gaps + squares).reshape(num_rows, -1), count)
    return best // size, best % size


def _gaps(x, codewords):
    """Returns squared distances of rows [..., D] to codewords, less the row's square, [..., K]."""
    return jnp.sum(jnp.square(codewords), axis=-1) - 2 * _MATMUL(x, codewords.T)


def _of_beam(x, numbers):
    """Returns the entries [N, C, ...] of beams [N, B, ...] by their numbers [N, C]."""
    return jnp.take_along_axis(x, numbers[..., None], axis=1)


def _steps(networks):
    """Returns the parts of all steps but the first, stacked for a scan."""
    return _Step(networks.codebooks[1:], *networks[1:5], networks.lookup[1:])


def _output(step, numbers, sums):
    """Returns the network's output [..., D] for codewords of numbers [...] after sums [..., D]."""
    width = sums.shape[-1]
    # W [c; x] is W_c c + W_x x: the first is computed once for each codeword, not for each row.
    starts = step.codebook + _MATMUL(step.codebook, step.mixing[:width]) + step.offset
    z = starts[numbers] + _MATMUL(sums, step.mixing[width:])
    for expand, contract in zip(step.expansions, step.contractions, strict=True):
        z = z + _MATMUL(jax.nn.relu(_MATMUL(z, expand)), contract)
    return z


@jax.jit
def _decode(networks, assignments):
    networks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), networks)
    return _sums(networks, assignments)[-1]


def _sums(networks, assignments):
    """Returns the sums after each step, [M, N, D]."""

    def add(sums, step):
        step, numbers = step
        sums = sums + _output(step, numbers, sums)
        return sums, sums

    first = networks.codebooks[0][assignments[:, 0]]
    _, later = jax.lax.scan(add, first, (_steps(networks), assignments[:, 1:].T))
    return jnp.concatenate([first[None], later])


def _train(state, x, rate, beam_width, num_candidates):
    """Returns the state after one batch, and the batch's mean squared error before it."""
    numbers = _search(state.networks, beam_width, num_candidates, x)

    def loss(networks):
        sums = _sums(networks, numbers)
        errors = jnp.mean(jnp.sum(jnp.square(x - sums), axis=-1), axis=1)
        return jnp.sum(errors), (errors[-1], sums)

    gradient, (error, sums) = jax.grad(loss, has_aux=True)(state.networks)
    step = state.step + 1
    networks, moments = _adam(state.networks, gradient, state.moments, step, rate)
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
