import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import ema, product
from tests.quantizers import devices, oracles

M, K, WIDTH, ROWS = 2, 4, 3, 48
X = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, M * WIDTH)), jnp.float32)
OTHER = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * WIDTH)), jnp.float32)
START = X[: M * K].reshape(M, K, -1)[..., :WIDTH]
UPDATE = jax.jit(ema.ema_update)
REVIVE = jax.jit(ema.revive)


@functools.cache
def fitted():
    """Codebooks that Lloyd moves no more, and their assignments."""
    books = product.refine_codebooks(START, X, 60)
    assignments = product.encode(books, X)
    np.testing.assert_allclose(product.refine_codebooks(books, X, 1), books, atol=1e-6)
    return books, assignments


def test_state_made_by_hand():
    codebooks = jnp.array([[[0.0], [10.0], [99.0]]])
    state = ema.ema_init(codebooks, jnp.array([[0], [0], [0], [1]]))
    np.testing.assert_array_equal(state.counts, [[3, 1, 0]])
    np.testing.assert_array_equal(state.codebooks, codebooks)
    state = UPDATE(state, jnp.array([[4.0], [12.0]]), jnp.array([[0], [1]]), decay=0.75)
    # 0: count .75 * 3 + .25 = 2.5, sum .25 * 4 = 1; 1: count 1, sum .75 * 10 + .25 * 12 = 10.5.
    np.testing.assert_allclose(state.counts, [[2.5, 1.0, 0.0]])
    np.testing.assert_allclose(state.codebooks, [[[0.4], [10.5], [99.0]]], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_a_step_on_the_batch_that_initialised_it_leaves_the_centroids_in_place(decay):
    books, assignments = fitted()
    state = ema.ema_init(books, assignments)
    for _ in range(3):
        after = UPDATE(state, X, assignments, decay=decay)
        np.testing.assert_allclose(after.codebooks, books, atol=2e-6)
        np.testing.assert_allclose(after.counts, state.counts, rtol=1e-6)
        state = after


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_updates_equal_running_counts_and_sums_in_float64(decay):
    state = ema.ema_init(START, product.encode(START, X))
    books, counts = np.float64(START), np.float64(state.counts)
    for x in (OTHER, X, 0.1 * OTHER):
        assignments = np.asarray(product.encode(state.codebooks, x))
        books, counts = oracles.running_sums(books, counts, x, assignments, decay)
        state = UPDATE(state, x, assignments, decay=decay)
        np.testing.assert_allclose(state.codebooks, books, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.counts, counts, rtol=1e-5)


def test_a_codeword_without_rows_stays_loses_count_and_comes_back_finite():
    state = ema.ema_init(START, jnp.zeros((ROWS, M), jnp.uint8))
    for _ in range(2000):  # far below the smallest float32
        state = UPDATE(state, X, jnp.ones((ROWS, M), jnp.uint8), decay=0.9)
    np.testing.assert_array_equal(state.codebooks[:, 0], START[:, 0])
    np.testing.assert_array_equal(state.codebooks[:, 2:], START[:, 2:])
    assert jnp.all(state.counts[:, [0, 2, 3]] < 1e-30)
    means = X.reshape(ROWS, M, WIDTH).mean(axis=0)
    np.testing.assert_allclose(state.codebooks[:, 1], means, atol=1e-5)
    state = UPDATE(state, X, jnp.full((ROWS, M), 2, jnp.uint8), decay=0.9)
    np.testing.assert_allclose(state.codebooks[:, 2], means, atol=1e-5)  # all the way


def test_mask_drops_rows():
    mask = np.arange(ROWS) % 3 != 0
    padded = jnp.where(mask[:, None], X, 1e3)
    assignments = product.encode(START, padded)
    state = ema.ema_init(START, assignments, jnp.asarray(mask))
    due = ema.ema_init(START, assignments[mask])
    np.testing.assert_array_equal(state.counts, due.counts)
    got = UPDATE(state, padded, assignments, decay=0.5, mask=jnp.asarray(mask))
    due = UPDATE(due, X[mask], assignments[mask], decay=0.5)
    np.testing.assert_allclose(got.codebooks, due.codebooks, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.counts, due.counts, rtol=1e-6)


def collapsed(counts):
    books = jnp.concatenate([START[:, :2], jnp.full((M, K - 2, WIDTH), 50.0)], axis=1)
    return ema.EmaState(books, jnp.asarray(counts, jnp.float32))


def test_revive_moves_dead_codewords_onto_rows_and_leaves_the_living():
    state = collapsed([[20, 4, 0.2, 0.4], [24, 1.0, 0.9, 0.0]])
    got = REVIVE(jax.random.key(0), state, X, threshold=1.0)
    np.testing.assert_array_equal(got.codebooks[:, :2], state.codebooks[:, :2])
    np.testing.assert_array_equal(got.counts[:, :2], state.counts[:, :2])
    slices = np.asarray(product.split(X, M))
    rows = [
        [int(np.flatnonzero((slices[m] == word).all(axis=1))[0]) for word in got.codebooks[m, 2:]]
        for m in range(M)
    ]
    assert all(len(set(each)) == 2 for each in rows)  # no row twice
    assert rows[0] != rows[1]
    # The count is replaced too, by the average of the codebook.
    np.testing.assert_allclose(got.counts[0, 2:], [24.6 / 4] * 2, rtol=1e-6)
    np.testing.assert_allclose(got.counts[1, 2:], [25.9 / 4] * 2, rtol=1e-6)
    other = REVIVE(jax.random.key(1), state, X, threshold=1.0)
    assert not np.array_equal(other.codebooks, got.codebooks)


def test_threshold_says_which_codewords_are_dead():
    state = collapsed([[20, 4, 0.2, 0.4], [24, 1.0, 0.9, 0.0]])
    for threshold in (0.0, 0.3, 0.95, 5.0):
        got = REVIVE(jax.random.key(0), state, X, threshold=threshold)
        moved = np.any(np.asarray(got.codebooks != state.codebooks), axis=-1)
        np.testing.assert_array_equal(moved, np.asarray(state.counts) < threshold)


@pytest.mark.parametrize("threshold", [1.0, 5.0])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_a_revived_codeword_is_not_dead_after_a_step_without_rows(threshold, decay):
    state = collapsed([[20, 4, 0.2, 0.4], [24, 1.0, 0.9, 0.0]])
    state = REVIVE(jax.random.key(0), state, X, threshold=threshold)
    after = UPDATE(state, X, jnp.zeros((ROWS, M), jnp.uint8), decay=decay)
    assert jnp.all(after.counts[:, 2:] >= threshold)
    np.testing.assert_array_equal(after.codebooks[:, 2:], state.codebooks[:, 2:])


def test_updates_with_revival_end_a_collapse():
    state = collapsed([[24, 24, 0, 0], [24, 24, 0, 0]])
    for step in range(30):
        state = REVIVE(jax.random.key(step), state, X, threshold=1.0)
        state = UPDATE(state, X, product.encode(state.codebooks, X), decay=0.8)
    numbers = np.asarray(product.encode(state.codebooks, X))
    assert all(len(np.unique(column)) == K for column in numbers.T)


def test_revive_draws_usable_rows_only_and_repeats_them_when_it_must():
    state = collapsed(np.zeros((M, K)))
    mask = jnp.arange(ROWS) == 7
    got = REVIVE(jax.random.key(0), state, X, threshold=1.0, mask=mask)
    for word in got.codebooks.transpose(1, 0, 2).reshape(K, -1):
        np.testing.assert_array_equal(word, X[7])
    np.testing.assert_array_equal(got.counts, np.full((M, K), 2.0))  # twice the threshold


def one_training_step(state, x):
    state = ema.revive(jax.random.key(3), state, x, threshold=1.0)
    return ema.ema_update(state, x, product.encode(state.codebooks, x), decay=0.9)


@pytest.mark.slow  # test_contract_on_devices.py has the update by default
def test_rows_over_eight_devices_give_the_state_of_one():
    state = collapsed([[20, 4, 0.2, 0.4], [24, 1.0, 0.9, 0.0]])
    due = jax.jit(one_training_step)(state, X)
    assert not np.allclose(due.codebooks, state.codebooks)
    sharded = jax.jit(one_training_step)(state, *devices.by_rows(X))
    gathered = devices.pmap_gathered(one_training_step, state, [X])
    for got in (sharded, gathered):
        np.testing.assert_allclose(got.codebooks, due.codebooks, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.counts, due.counts, rtol=1e-6)


def test_bfloat16_embeddings_update_a_float32_state():
    low = X.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    assignments = product.encode(START, low)
    state = ema.ema_init(START.astype(jnp.bfloat16), assignments)
    assert state.codebooks.dtype == state.counts.dtype == jnp.float32
    for function in (
        lambda x: UPDATE(state, x, assignments, decay=0.9),
        lambda x: REVIVE(jax.random.key(0), state, x, threshold=100.0),
    ):
        for got, due in zip(function(low), function(full), strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize("x", [1e4 * X, jnp.zeros_like(X), jnp.ones_like(X)])
def test_awkward_rows_leave_finite_codewords_at_their_means(x):
    start = x[:K].reshape(K, M, WIDTH).transpose(1, 0, 2)
    state = ema.ema_init(start, product.encode(start, x))
    state = UPDATE(state, x, product.encode(start, x), decay=0.0)
    due, _ = oracles.running_sums(start, state.counts, x, np.asarray(product.encode(start, x)), 0.0)
    np.testing.assert_allclose(state.codebooks, due, rtol=1e-5, atol=1e-5)


CODES = jnp.zeros((ROWS, M), jnp.uint8)
STATE = ema.EmaState(START, jnp.ones((M, K)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ema.ema_init(START[0], CODES), r"codebooks must have shape \[M, K, d\], got \(4"),
        (lambda: ema.ema_init(START, CODES[:, :1]), r"assignments must have shape \(48, 2\), got"),
        (lambda: ema.ema_init(START, CODES, jnp.ones(3)), r"mask must have shape \(48,\), got \(3"),
        (
            lambda: ema.ema_update(STATE, X[:, :5], CODES, decay=0.9),
            r"x must have shape \[N, 6\] for codebooks \(2, 4, 3\), got \(48, 5\)",
        ),
        (
            lambda: ema.ema_update(STATE, X, CODES[:47], decay=0.9),
            r"assignments must have shape \(48, 2\), got \(47, 2\)",
        ),
        (
            lambda: ema.revive(jax.random.key(0), STATE, X[:, :5], threshold=1.0),
            r"x must have shape \[N, 6\]",
        ),
        (
            lambda: ema.revive(jax.random.key(0), STATE, X, threshold=1.0, mask=jnp.ones(3, bool)),
            r"mask must have shape \(48,\), got \(3,\)",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
