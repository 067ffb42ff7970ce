import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import product
from tests.quantizers import oracles

M, K, WIDTH, ROWS, QUERIES = 3, 8, 2, 40, 5
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, WIDTH)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * WIDTH)), jnp.float32)


def test_split_cuts_contiguous_slices():
    got = product.split(jnp.arange(12).reshape(2, 6), 3)
    np.testing.assert_array_equal(got, [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]])
    assert product.split(X, 1).shape == (1, ROWS, 6)


def test_encode_equals_brute_force():
    got = product.encode(BOOKS, X)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, oracles.encode(BOOKS, X))
    assert len(np.unique(got)) == K


@pytest.mark.parametrize("num_codebooks", [8, 11, 12, 32])
def test_many_codebooks_are_encoded_in_groups(rng, num_codebooks):
    books = rng.normal(size=(num_codebooks, 16, 2)).astype(np.float32)
    x = rng.normal(size=(70, 2 * num_codebooks)).astype(np.float32)
    np.testing.assert_array_equal(product.encode(books, x), oracles.encode(books, x))


def test_encode_gives_a_tie_to_the_lowest_number():
    books = jnp.tile(jnp.array([[3.0], [1.0], [-1.0], [1.0]]), (2, 1, 1))
    got = product.encode(books, jnp.array([[0.0, 1.0], [2.0, -1.0]]))
    np.testing.assert_array_equal(got, [[1, 1], [0, 2]])


def test_256_codewords_fit_a_byte():
    books = jnp.arange(256.0).reshape(1, 256, 1)
    x = jnp.array([[0.2], [127.9], [128.1], [300.0]])
    codes = product.encode(books, x)
    np.testing.assert_array_equal(codes, [[0], [128], [128], [255]])
    np.testing.assert_array_equal(product.decode(books, codes), [[0.0], [128.0], [128.0], [255.0]])


def test_bfloat16_embeddings_are_assigned_in_float32():
    low = X.astype(jnp.bfloat16)
    np.testing.assert_array_equal(
        product.encode(BOOKS, low), product.encode(BOOKS, low.astype(jnp.float32))
    )


def test_decode_puts_codewords_side_by_side():
    books = jnp.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    got = product.decode(books, jnp.array([[0, 1], [1, 0], [1, 1]], jnp.uint8))
    np.testing.assert_array_equal(got, [[1, 2, 7, 8], [3, 4, 5, 6], [3, 4, 7, 8]])


HAND_BOOKS = jnp.array([[[0.0, 0.0], [3.0, 4.0]], [[1.0, -1.0], [0.0, 2.0]]])
HAND_QUERIES = jnp.array([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


def test_encode_made_by_hand():
    # Squared distances 2, 13 and 5, 1 of the first row; 8, 5 and 1, 5 of the second.
    x = jnp.array([[1.0, 1.0, 0.0, 1.0], [2.0, 2.0, 1.0, 0.0]])
    np.testing.assert_array_equal(product.encode(HAND_BOOKS, x), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("metric", "due"),
    [
        ("l2", [[[5, 8], [2, 8]], [[0, 25], [2, 4]]]),
        ("ip", [[[0, -11], [-2, 0]], [[0, 0], [0, 0]]]),
    ],
)
def test_lookup_tables_made_by_hand(metric, due):
    got = product.lookup_tables(HAND_BOOKS, HAND_QUERIES, metric=metric)
    np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize(
    ("metric", "due"),
    [
        ("l2", [[13, 10, 16], [4, 27, 29]]),
        ("ip", [[0, -13, -11], [0, 0, 0]]),
        # The query is 3 long, the items 2, the root of 27 and that of 29.
        ("cosine", [[1, 1 - 13 / (3 * 27**0.5), 1 - 11 / (3 * 29**0.5)], [1, 1, 1]]),
    ],
)
def test_distances_made_by_hand(metric, due):
    assignments = jnp.array([[0, 1], [1, 0], [1, 1]])  # (0, 0, 0, 2), (3, 4, 1, -1), (3, 4, 0, 2)
    got = product.distances(HAND_BOOKS, HAND_QUERIES, assignments, metric=metric)
    np.testing.assert_allclose(got, due, rtol=1e-6)


@pytest.mark.parametrize("metric", product.METRICS)
def test_distances_equal_brute_force(metric):
    books, queries = BOOKS.at[:, 0].set(0), X[:QUERIES].at[0].set(0)  # a zero vector on both sides
    assignments = product.encode(books, X).at[3].set(0)
    due = oracles.distances(queries, oracles.decode(books, assignments), metric)
    function = functools.partial(product.distances, metric=metric)
    for got in (function, jax.jit(function)):
        np.testing.assert_allclose(got(books, queries, assignments), due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1e-8, 1e8])
def test_cosine_distances_do_not_depend_on_length(length):
    assignments = product.encode(BOOKS, X)
    due = product.distances(BOOKS, X[:QUERIES], assignments, metric="cosine")
    got = product.distances(BOOKS * length, X[:QUERIES] * length, assignments, metric="cosine")
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


def test_distances_are_squared_euclid_unless_told_otherwise():
    assignments = product.encode(BOOKS, X)
    due = product.distances(BOOKS, X[:QUERIES], assignments, metric="l2")
    np.testing.assert_array_equal(product.distances(BOOKS, X[:QUERIES], assignments), due)


@pytest.mark.parametrize("metric", product.METRICS)
def test_equal_codes_get_bit_equal_distances(metric):
    assignments = product.encode(BOOKS, X)[np.arange(ROWS) % 7]
    for function in (product.distances, jax.jit(product.distances, static_argnames="metric")):
        got = np.asarray(function(BOOKS, X[:QUERIES] * 1e3, assignments, metric=metric))
        np.testing.assert_array_equal(got, got[:, np.arange(ROWS) % 7])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_lookup_tables_hold_the_distance_of_every_slice_to_every_codeword(metric):
    got = product.lookup_tables(BOOKS, X[:QUERIES], metric=metric)
    slices = X[:QUERIES].reshape(QUERIES, M, WIDTH)
    for m in range(M):
        due = oracles.distances(slices[:, m], BOOKS[m], metric)
        np.testing.assert_allclose(got[:, m], due, rtol=1e-5, atol=1e-6)
    assignments = product.encode(BOOKS, X)
    summed = sum(got[:, m, assignments[:, m]] for m in range(M))
    due = product.distances(BOOKS, X[:QUERIES], assignments, metric=metric)
    np.testing.assert_allclose(summed, due, rtol=1e-6)
    if metric == "l2":
        np.testing.assert_array_equal(product.lookup_tables(BOOKS, X[:QUERIES]), got)


CODES = jnp.zeros((ROWS, M), jnp.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: product.split(X, 4), "num_codebooks must divide .* got 4 codebooks for D = 6"),
        (lambda: product.split(X, 0), "num_codebooks must divide .* got 0 codebooks"),
        (lambda: product.split(X[0], 2), r"x must have shape \[N, D\], got \(6,\)"),
        (lambda: product.encode(BOOKS[0], X), r"codebooks must have shape \[M, K, d\], got \(8, 2"),
        (lambda: product.encode(BOOKS, X[:, :5]), r"x must have shape \[N, 6\].* got \(40, 5\)"),
        (lambda: product.encode(BOOKS, X[0]), r"x must have shape \[N, 6\].* got \(6,\)"),
        (
            lambda: product.encode(jnp.zeros((M, 257, 2)), X),
            "num_codewords must be between 2 and 256, got 257",
        ),
        (lambda: product.encode(BOOKS[:, :1], X), "num_codewords must be .* got 1"),
        (
            lambda: product.quantize(BOOKS, X[:, :5], temperature=1.0),
            r"x must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: product.soft_assign(BOOKS, X[:, :5], temperature=1.0),
            r"x must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: product.quantize_identity(BOOKS, X[:, :5]),
            r"x must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: product.lookup_tables(BOOKS, X[:, :5]),
            r"queries must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: product.lookup_tables(BOOKS, X, metric="cosine"),
            "metric of a lookup table must be one of l2, ip, got 'cosine'",
        ),
        (
            lambda: product.decode(BOOKS, CODES[:, :2]),
            r"assignments must have shape \[N, 3\], got \(40, 2\)",
        ),
        (
            lambda: product.decode(BOOKS[:, 0], CODES),
            r"codebooks must have shape \[M, K, d\], got \(3, 2\)",
        ),
        (
            lambda: product.distances(BOOKS, X[:, :5], CODES),
            r"queries must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: product.distances(BOOKS, X, CODES[0]),
            r"assignments must have shape \[N, 3\], got \(3,\)",
        ),
        (
            lambda: product.distances(BOOKS, X, CODES, metric="dot"),
            "metric must be one of l2, ip, cosine, got 'dot'",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
