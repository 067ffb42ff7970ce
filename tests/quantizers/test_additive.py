import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import additive, product
from tests.quantizers import devices, oracles

M, K, D, ROWS, QUERIES = 3, 4, 6, 40, 5
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, D)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, D)), jnp.float32)
START = jnp.asarray(np.random.default_rng(3).integers(0, K, size=(ROWS, M)), jnp.uint8)
PRODUCT = BOOKS[..., : D // M]
ICM = jax.jit(additive.icm_encode, static_argnames="num_sweeps")
RIDGE = jax.jit(additive.ridge_update)
DISTANCES = jax.jit(additive.distances, static_argnames="metric")
PRODUCT_DISTANCES = jax.jit(product.distances, static_argnames="metric")


def errors(codebooks, x, assignments):
    return np.sum((np.float64(x) - oracles.additive_decode(codebooks, assignments)) ** 2, axis=1)


def test_decode_and_distances_made_by_hand():
    books = jnp.array([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, 0.0]]])
    assignments = jnp.array([[0, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(additive.decode(books, assignments), [[2, 1], [0, 0], [-1, 2]])
    np.testing.assert_array_equal(additive.squared_norms(books, assignments), [5, 0, 5])
    query = jnp.array([[3.0, 4.0]])
    for metric, due in (
        ("l2", [[1 + 9, 25, 16 + 4]]),
        ("ip", [[-10, 0, -5]]),
        ("cosine", [[1 - 10 / np.sqrt(125), 1, 1 - 5 / np.sqrt(125)]]),
    ):
        got = DISTANCES(books, query, assignments, metric=metric)
        np.testing.assert_allclose(got, due, rtol=1e-6, atol=1e-6)


def test_block_diagonal_made_by_hand():
    got = additive.block_diagonal(jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]]))
    np.testing.assert_array_equal(got, [[[1, 0], [2, 0]], [[0, 3], [0, 4]]])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_icm_encode_made_by_hand(seed):
    books = jnp.array([[[0.0], [10.0]], [[-2.0], [1.0]]])
    x = jnp.array([[0.9], [7.5], [4.8], [4.8]])
    # 8 becomes 1 and 1 becomes 8, in whatever order; 4.8 is 3.8 away from 1 and 3.2 from 8, but no
    # single codeword betters 1.
    start = jnp.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    got = additive.icm_encode(jax.random.key(seed), books, x, start, num_sweeps=2)
    np.testing.assert_array_equal(got, [[0, 1], [1, 0], [0, 1], [1, 0]])


def test_ridge_update_made_by_hand():
    books, x = jnp.full((1, 3, 1), 7.0), jnp.array([[2.0], [4.0], [9.0]])
    assignments = jnp.array([[0], [0], [2]])
    for ridge, due in ((1.0, [6 / 3, 7, 9 / 2]), (4.0, [6 / 6, 7, 9 / 5])):
        got = additive.ridge_update(books, x, assignments, ridge=ridge)
        np.testing.assert_allclose(got[0, :, 0], due, rtol=1e-5)
    # 3 a + b + c = 5 + 9, a + 2 b = 5, a + 2 c = 9.
    books, x = jnp.full((2, 2, 1), 7.0), jnp.array([[5.0], [9.0]])
    got = additive.ridge_update(books, x, jnp.array([[0, 0], [0, 1]]), ridge=1.0)
    np.testing.assert_allclose(got[..., 0], [[3.5, 7], [0.75, 2.75]], rtol=1e-5)


def test_block_diagonal_codebooks_are_product_quantization():
    wide = additive.block_diagonal(PRODUCT)
    assert wide.shape == (M, K, D)
    np.testing.assert_array_equal(additive.decode(wide, START), product.decode(PRODUCT, START))
    for metric in product.METRICS:
        np.testing.assert_allclose(
            DISTANCES(wide, X, START, metric=metric),
            PRODUCT_DISTANCES(PRODUCT, X, START, metric=metric),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("metric", product.METRICS)
def test_distances_are_those_to_the_decoded_embedding(metric):
    books = BOOKS.at[:, 3].set(0)
    assignments = START.at[0].set(3)  # a reconstruction of zero
    queries = X[:QUERIES].at[1].set(0)
    due = oracles.distances(queries, oracles.additive_decode(books, assignments), metric)
    for got in (
        DISTANCES(books, queries, assignments, metric=metric),
        additive.distances(books, queries, assignments, metric=metric),
        DISTANCES(books, queries, *devices.by_rows(assignments), metric=metric),
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, due, rtol=2e-5, atol=5e-6)


def test_squared_euclid_far_from_the_origin_keeps_its_digits():
    # As ||q||^2 - 2 <q, x> + ||x||^2 the error would be some 100 here.
    books, queries = BOOKS + 1e4, X[:QUERIES] + M * 1e4
    due = oracles.distances(queries, oracles.additive_decode(books, START), "l2")
    got = DISTANCES(books, queries, START)
    np.testing.assert_allclose(got, due, atol=0.02)
    assert np.all(np.asarray(got) >= 0)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("metric", product.METRICS)
def test_distances_scale(metric, scale):
    decoded = oracles.additive_decode(BOOKS * scale, START)
    due = oracles.distances(X[:QUERIES] * scale, decoded, metric)
    got = DISTANCES(BOOKS * scale, X[:QUERIES] * scale, START, metric=metric)
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-6 * np.max(np.abs(due)))


@pytest.mark.parametrize("metric", product.METRICS)
def test_items_of_equal_code_are_equally_far_to_the_bit(metric):
    assignments = START[np.arange(ROWS) % 7]
    for function in (additive.distances, DISTANCES):
        got = np.asarray(function(BOOKS, X * 1e3, assignments, metric=metric))
        np.testing.assert_array_equal(got, got[:, np.arange(ROWS) % 7])


def test_no_sweep_of_icm_lengthens_a_rows_error():
    sweeps = [START, *(ICM(jax.random.key(0), BOOKS, X, START, num_sweeps=n) for n in (1, 2, 3))]
    assert all(each.dtype == jnp.uint8 for each in sweeps)
    along = [errors(BOOKS, X, each) for each in sweeps]
    for before, after in itertools.pairwise(along):
        assert np.all(after <= before + 1e-5)
    assert np.mean(along[-1]) < 0.5 * np.mean(along[0])


def test_icm_ends_where_no_single_codeword_can_be_bettered():
    got = np.asarray(ICM(jax.random.key(0), BOOKS, X, START, num_sweeps=8))
    best = errors(BOOKS, X, got)
    for m, k in itertools.product(range(M), range(K)):
        other = got.copy()
        other[:, m] = k
        assert np.all(errors(BOOKS, X, other) >= best - 1e-5)


def test_icm_visits_codebooks_in_an_order_drawn_for_every_sweep():
    def by_hand(order):
        numbers = np.asarray(START).copy()
        for m in order:
            options = np.stack([numbers] * K)
            options[:, :, m] = np.arange(K)[:, None]
            numbers[:, m] = np.argmin([errors(BOOKS, X, each) for each in options], axis=0)
        return numbers

    orders = list(itertools.permutations(range(M)))
    due = {order: by_hand(order) for order in orders}
    first = set()
    for seed in range(12):
        got = np.asarray(ICM(jax.random.key(seed), BOOKS, X, START, num_sweeps=1))
        matches = [order for order in orders if np.array_equal(got, due[order])]
        assert matches
        first.update(matches)
    assert len(first) > 2
    # A second sweep in an order of its own: not the first one's twice over.
    twice = {tuple(one + other): by_hand(one + other) for one in orders for other in orders}
    repeated = 0
    for seed in range(12):
        got = np.asarray(ICM(jax.random.key(seed), BOOKS, X, START, num_sweeps=2))
        matches = [order for order, numbers in twice.items() if np.array_equal(got, numbers)]
        assert matches
        repeated += any(order[:M] == order[M:] for order in matches)
    assert repeated < 12


def test_icm_on_block_diagonal_codebooks_is_independent_nearest_codewords():
    wide = additive.block_diagonal(PRODUCT)
    got = ICM(jax.random.key(0), wide, X, START, num_sweeps=1)
    np.testing.assert_array_equal(got, product.encode(PRODUCT, X))


def test_icm_over_eight_devices_equals_one():
    due = ICM(jax.random.key(1), BOOKS, X, START, num_sweeps=3)
    got = ICM(jax.random.key(1), BOOKS, *devices.by_rows(X, START), num_sweeps=3)
    np.testing.assert_array_equal(got, due)
    eager = additive.icm_encode(jax.random.key(1), BOOKS, X, START, num_sweeps=3)
    np.testing.assert_array_equal(eager, due)


@pytest.mark.parametrize("ridge", [1e-3, 0.5, 10.0])
def test_ridge_update_equals_regularised_least_squares_in_float64(ridge):
    got = RIDGE(BOOKS, X, START, ridge=ridge)
    assert got.dtype == jnp.float32
    due = oracles.ridge(BOOKS, X, START, ridge)
    np.testing.assert_allclose(got, due, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_ridge_update_of_many_rows_keeps_its_digits(ridge):
    # H^T H is singular, by 2 directions, beside eigenvalues of 60,000.
    rng = np.random.default_rng(5)
    assignments = np.uint8(rng.integers(0, K, size=(40000, M)))
    x = np.float32(oracles.additive_decode(BOOKS, assignments) + 0.1 * rng.normal(size=(40000, D)))
    got = RIDGE(BOOKS, x, assignments, ridge=ridge)
    np.testing.assert_allclose(got, oracles.ridge(BOOKS, x, assignments, 1e-3), atol=2e-4)


def test_ridge_update_lowers_the_error_and_no_other_codebooks_do_better():
    got = RIDGE(BOOKS, X, START, ridge=1e-6)
    before, after = (np.sum(errors(books, X, START)) for books in (BOOKS, got))
    assert after < 0.6 * before
    rng = np.random.default_rng(6)
    for _ in range(20):
        moved = np.float64(got) + 0.02 * rng.normal(size=BOOKS.shape)
        assert np.sum(errors(moved, X, START)) > after


def test_ridge_update_without_a_ridge_is_the_mean_of_each_cluster_of_a_product():
    slices = product.split(X, M)
    numbers = product.encode(PRODUCT, X)
    one_book = jax.vmap(lambda book, part, n: RIDGE(book[None], part, n[:, None], ridge=1e-7)[0])
    got = one_book(PRODUCT, slices, numbers.T)
    np.testing.assert_allclose(got, product.refine_codebooks(PRODUCT, X, 1), rtol=1e-4, atol=1e-5)


def test_codewords_without_rows_keep_their_value_and_ones_at_the_origin_do_not():
    assignments = START.at[:, 1].set(jnp.minimum(START[:, 1], 2))
    x = jnp.where((assignments[:, :1] == 0), 0.0, X)
    got = RIDGE(BOOKS[:1], x, assignments[:, :1], ridge=1e-3)
    np.testing.assert_allclose(got[0, 0], np.zeros(D), atol=1e-6)
    got = RIDGE(BOOKS, X, assignments, ridge=1e-3)
    np.testing.assert_array_equal(got[1, 3], BOOKS[1, 3])
    due = oracles.ridge(BOOKS, X, assignments, 1e-3)
    np.testing.assert_allclose(got, due, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "fit",
    [
        lambda x, numbers, mask=None: additive.ridge_update(
            BOOKS, x, numbers, ridge=0.1, mask=mask
        ),
        lambda x, _, mask=None: additive.refine_codebooks(BOOKS, x, num_rounds=2, mask=mask),
    ],
    ids=["ridge_update", "refine_codebooks"],
)
def test_rows_that_do_not_count_change_no_codebook(fit):
    mask = jnp.arange(ROWS) < 30
    padded = jnp.where(mask[:, None], X, jnp.nan)
    np.testing.assert_allclose(fit(padded, START, mask), fit(X[:30], START[:30]), atol=1e-5)


def test_ridge_update_is_finite_where_codebooks_are_assigned_alike():
    for assignments in (jnp.tile(START[:, :1], (1, M)), jnp.zeros((ROWS, M), jnp.uint8)):
        for scale in (0.0, 1.0, 1e4):
            got = RIDGE(BOOKS, scale * X, assignments, ridge=1e-3)
            assert jnp.all(jnp.isfinite(got))
            due = oracles.ridge(BOOKS, scale * X, assignments, 1e-3)
            gap = oracles.additive_decode(got - due, assignments)
            assert np.max(np.abs(gap)) <= 1e-4 * scale


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_many_rows_assigned_alike_leave_a_factor_of_the_matrix(ridge):
    # H^T H lacks 8 of its 12 dimensions, with 10,000 rows in the others.
    assignments = jnp.tile(jnp.arange(40000)[:, None] % K, (1, M))
    x = jnp.tile(X, (1000, 1))
    got = RIDGE(BOOKS, x, assignments, ridge=ridge)
    due = np.stack([np.float64(x[k::K]).mean(axis=0) for k in range(K)])
    np.testing.assert_allclose(oracles.additive_decode(got, assignments[:K]), due, atol=1e-4)


def test_alternating_icm_and_ridge_beats_product_quantization():
    mixed = X @ np.random.default_rng(7).normal(size=(D, D))
    books = product.fit_codebooks(jax.random.key(0), mixed, num_codebooks=M, num_codewords=K)
    wide, numbers = additive.block_diagonal(books), product.encode(books, mixed)
    along = [np.mean(errors(wide, mixed, numbers))]
    for step in range(5):
        wide = RIDGE(wide, mixed, numbers, ridge=1e-3)
        numbers = ICM(jax.random.key(step), wide, mixed, numbers, num_sweeps=3)
        along.append(np.mean(errors(wide, mixed, numbers)))
    assert along == sorted(along, reverse=True)
    assert along[-1] < 0.8 * along[0]


def test_ridge_update_over_eight_devices_equals_one():
    due = RIDGE(BOOKS, X, START, ridge=0.1)
    sharded = RIDGE(BOOKS, *devices.by_rows(X, START), ridge=0.1)
    gathered = devices.pmap_gathered(
        lambda books, x, n: additive.ridge_update(books, x, n, ridge=0.1), BOOKS, [X, START]
    )
    eager = additive.ridge_update(BOOKS, X, START, ridge=0.1)
    for got in (sharded, gathered, eager):
        np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-5)


def test_bfloat16_embeddings_are_worked_on_in_float32():
    low = X.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    for function in (
        lambda x: ICM(jax.random.key(0), BOOKS, x, START, num_sweeps=2),
        lambda x: RIDGE(BOOKS, x, START, ridge=0.1),
        lambda x: additive.distances(BOOKS, x, START),
    ):
        got = function(low)
        assert got.dtype in (jnp.float32, jnp.uint8)
        np.testing.assert_array_equal(got, function(full))


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: additive.decode(BOOKS[0], START), r"codebooks must have shape \[M, K, D\], got"),
        (
            lambda: additive.decode(BOOKS, START[:, :2]),
            r"assignments must have shape \[N, 3\], got \(40, 2\)",
        ),
        (lambda: additive.block_diagonal(BOOKS[0]), r"codebooks must have shape \[M, K, D\]"),
        (
            lambda: additive.distances(BOOKS, X[:, :5], START),
            r"queries must have shape \[N, 6\] for codebooks \(3, 4, 6\), got \(40, 5\)",
        ),
        (
            lambda: additive.distances(BOOKS, X, START, metric="dot"),
            "metric must be one of l2, ip, cosine, got 'dot'",
        ),
        (
            lambda: additive.icm_encode(KEY, BOOKS, X, START[:39], num_sweeps=1),
            r"assignments must have shape \(40, 3\), got \(39, 3\)",
        ),
        (
            lambda: additive.icm_encode(KEY, BOOKS, X[:, :5], START, num_sweeps=1),
            r"x must have shape \[N, 6\]",
        ),
        (
            lambda: additive.icm_encode(KEY, jnp.zeros((M, 257, D)), X, START, num_sweeps=1),
            "num_codewords must be between 2 and 256, got 257",
        ),
        (
            lambda: additive.ridge_update(BOOKS, X, START[:, :2], ridge=0.1),
            r"assignments must have shape \(40, 3\), got \(40, 2\)",
        ),
        (
            lambda: additive.ridge_update(BOOKS, X[:, :5], START, ridge=0.1),
            r"x must have shape \[N, 6\]",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
