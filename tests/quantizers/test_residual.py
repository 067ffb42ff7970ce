import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import additive, product
from tests.quantizers import devices, oracles

M, K, D, ROWS = 3, 8, 6, 64
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, D)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, D)), jnp.float32)
ENCODE = jax.jit(additive.encode, static_argnames="beam_width")
# Not under a jit of its own: runs that differ in the number of iterations share one program.
FIT = functools.partial(additive.fit_codebooks, num_codebooks=M, num_codewords=K)


def errors(codebooks, x, assignments):
    gaps = np.float64(x) - np.float64(additive.decode(codebooks, assignments))
    return np.sum(gaps**2, axis=1)


def test_encode_made_by_hand():
    books = jnp.array([[[0.0], [10.0]], [[-2.0], [1.0]]])
    x = jnp.array([[0.9], [7.5], [4.0]])
    np.testing.assert_array_equal(additive.encode(books, x), [[0, 1], [1, 0], [0, 1]])
    # 0 is nearer to 4.8 than 10 is, and leaves 3.8 behind 1; 10 would leave 3.2 behind -2.
    np.testing.assert_array_equal(additive.encode(books, jnp.array([[4.8]])), [[0, 1]])
    np.testing.assert_array_equal(
        additive.encode(books, jnp.array([[4.8]]), beam_width=2), [[1, 0]]
    )


@pytest.mark.parametrize("beam_width", [1, 3, 20, 1000])
def test_encode_equals_a_beam_search_in_float64(beam_width):
    got = ENCODE(BOOKS, X, beam_width=beam_width)
    assert (got.dtype, got.shape) == (jnp.uint8, (ROWS, M))
    np.testing.assert_array_equal(got, [oracles.beam(BOOKS, row, beam_width) for row in X])


def test_wider_beams_find_better_codes_and_the_widest_the_best():
    means = [np.mean(errors(BOOKS, X, ENCODE(BOOKS, X, beam_width=b))) for b in (1, 3, 20, 1000)]
    assert means == sorted(means, reverse=True)
    assert means[1] < 0.95 * means[0]
    everything = np.array(list(itertools.product(range(K), repeat=M)))
    gaps = np.float64(X)[:, None] - np.float64(additive.decode(BOOKS, everything))
    assert means[-1] == pytest.approx(np.mean(np.min(np.sum(gaps**2, axis=-1), axis=1)), rel=1e-5)


def test_a_tie_goes_to_the_lowest_number():
    books = jnp.array([[[3.0], [1.0], [-1.0], [1.0]]] * 2)
    np.testing.assert_array_equal(
        additive.encode(books, jnp.array([[0.0], [2.0]])), [[1, 2], [0, 2]]
    )


def test_the_lowest_numbers_win_ties_among_many_codewords():
    rng = np.random.default_rng(6)
    books = jnp.asarray(rng.integers(-2, 3, size=(2, 256, 2)), jnp.float32)
    x = jnp.asarray(rng.integers(-3, 4, size=(32, 2)), jnp.float32)
    due = [oracles.beam(books, row, 5) for row in x]
    np.testing.assert_array_equal(ENCODE(books, x, beam_width=5), due)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fit_codebooks_made_by_hand(seed):
    # {0, 4}, {100, 106} leave -2, 2, -3, 3, from whichever rows it starts.
    x = jnp.array([[0.0], [4.0], [100.0], [106.0], [1e3]])
    got = additive.fit_codebooks(
        jax.random.key(seed), x, num_codebooks=2, num_codewords=2, mask=jnp.arange(5) < 4
    )
    np.testing.assert_allclose(np.sort(got[..., 0]), [[2, 103], [-2.5, 2.5]], rtol=1e-5)


def test_fit_finds_planted_sums():
    rng = np.random.default_rng(3)
    coarse, fine = 100 * rng.normal(size=(4, D)), rng.normal(size=(4, D))
    fine -= fine.mean(axis=0)
    numbers = np.stack([np.arange(64) % 4, np.arange(64) // 4 % 4], axis=1)
    x = jnp.asarray(coarse[numbers[:, 0]] + fine[numbers[:, 1]], jnp.float32)
    books = FIT(jax.random.key(0), x, num_codebooks=2, num_codewords=4)
    assert books.dtype == jnp.float32
    for got, due in zip(books, (coarse, fine), strict=True):
        np.testing.assert_allclose(sorted(got.tolist()), sorted(due.tolist()), atol=1e-3)
    assert np.max(errors(books, x, additive.encode(books, x))) < 1e-5


def test_every_codebook_is_fitted_to_what_the_others_left():
    books = FIT(jax.random.key(0), X)
    numbers = np.asarray(additive.encode(books, X))
    left = np.float64(X)
    distortions = [np.mean(np.sum(left**2, axis=1))]
    for m in range(M):
        for k in range(K):  # Lloyd has settled: codewords are means of the residuals
            np.testing.assert_allclose(
                books[m, k], left[numbers[:, m] == k].mean(axis=0), atol=1e-4
            )
        left = left - np.float64(books[m])[numbers[:, m]]
        distortions.append(np.mean(np.sum(left**2, axis=1)))
    assert all(b < 0.8 * a for a, b in itertools.pairwise(distortions))


def test_fit_runs_as_many_iterations_as_told_and_10_unless_told():
    line = np.float32(np.linspace(0, 1, 2048)[:, None] ** [1, 3])
    run = functools.partial(FIT, jax.random.key(0), line)
    due = {n: np.asarray(run(num_iterations=n)) for n in (9, 10)}
    np.testing.assert_array_equal(run(), due[10])
    assert not np.array_equal(due[9], due[10])


@pytest.mark.by_default("1")  # beams of other widths have a row in test_contract.py
@pytest.mark.parametrize("beam_width", [1, 3, 10])
def test_keys_draw_anew_and_mask_drops_rows(beam_width):
    run = functools.partial(FIT, beam_width=beam_width)
    one, other = (np.asarray(run(jax.random.key(s), X, num_iterations=0)) for s in (0, 1))
    assert not np.array_equal(one, other)
    mask = np.arange(ROWS) % 3 != 0
    padded = np.where(mask[:, None], X, np.float32(1e3))
    got, due = (
        run(jax.random.key(4), padded, mask=mask),
        run(jax.random.key(4), np.asarray(X)[mask]),
    )
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_codebooks_fitted_with_a_beam_have_less_error_on_other_rows_than_greedy_ones(seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2048, 6)) @ rng.normal(size=(6, 6)), jnp.float32)
    seen, other = x[:1024], x[1024:]
    sizes = {"num_codebooks": 4, "num_codewords": 32}
    means = []
    for beam_width in (1, 4):
        books = additive.fit_codebooks(jax.random.key(seed), seen, **sizes, beam_width=beam_width)
        means.append(np.mean(errors(books, other, ENCODE(books, other, beam_width=4))))
    assert means[1] < 0.9 * means[0]


@pytest.mark.by_default("1")
@pytest.mark.parametrize("beam_width", [1, 3])
def test_rows_over_eight_devices_are_fitted_as_on_one(beam_width):
    due = FIT(jax.random.key(5), X, beam_width=beam_width)
    got = FIT(jax.random.key(5), *devices.by_rows(X), beam_width=beam_width)
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-5)


def test_rows_over_eight_devices_are_encoded_as_on_one():
    codes = ENCODE(BOOKS, *devices.by_rows(X), beam_width=3)
    np.testing.assert_array_equal(codes, ENCODE(BOOKS, X, beam_width=3))
    np.testing.assert_array_equal(codes, additive.encode(BOOKS, X, beam_width=3))


def test_bfloat16_embeddings_are_coded_in_float32():
    low = X.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    np.testing.assert_array_equal(ENCODE(BOOKS, low), ENCODE(BOOKS, full))
    books = FIT(jax.random.key(0), low)
    assert books.dtype == jnp.float32
    np.testing.assert_array_equal(books, FIT(jax.random.key(0), full))


@pytest.mark.parametrize("beam_width", [1, 3])
def test_awkward_rows_are_coded(beam_width):
    for books, x in ((BOOKS, 0 * X), (1e4 * BOOKS, 1e4 * X), (0 * BOOKS, X)):
        got = ENCODE(books, x, beam_width=beam_width)
        due = [oracles.beam(books, row, beam_width) for row in x]
        np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: additive.encode(BOOKS, X[:, :5]), r"x must have shape \[N, 6\].* got \(64, 5\)"),
        (lambda: additive.encode(BOOKS[0], X), r"codebooks must have shape \[M, K, D\], got \(8,"),
        (lambda: additive.encode(BOOKS, X, beam_width=0), "beam_width must be at least 1, got 0"),
        (lambda: FIT(jax.random.key(0), X[0]), r"x must have shape \[N, D\], got \(6,\)"),
        (
            lambda: FIT(jax.random.key(0), X, num_codebooks=0),
            "num_codebooks must be at least 1, got 0",
        ),
        (lambda: FIT(jax.random.key(0), X, beam_width=0), "beam_width must be at least 1, got 0"),
        (
            lambda: FIT(jax.random.key(0), X, num_codewords=65),
            "at least as many rows as codewords, got 64 rows for K = 65",
        ),
        (
            lambda: FIT(jax.random.key(0), X, num_codewords=257),
            "num_codewords must be between 2 and 256, got 257",
        ),
        (
            lambda: FIT(jax.random.key(0), X, mask=jnp.ones(9, bool)),
            r"mask must have shape \(64,\), got \(9,\)",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()


def test_residual_beats_product_at_equal_bits_on_correlated_rows():
    mixed = X @ np.random.default_rng(7).normal(size=(D, D))
    books = product.fit_codebooks(jax.random.key(0), mixed, num_codebooks=M, num_codewords=K)
    coded = product.decode(books, product.encode(books, mixed))
    ours = FIT(jax.random.key(0), mixed)
    due = np.mean(np.sum(np.square(np.float64(mixed - coded)), axis=1))
    assert np.mean(errors(ours, mixed, ENCODE(ours, mixed))) < 0.8 * due
