import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import product
from tests.quantizers import oracles

M, K, WIDTH, ROWS = 3, 8, 2, 40
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, WIDTH)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * WIDTH)), jnp.float32)


@functools.cache
def planted():
    """Rows on 4 well separated points in either of 2 subspaces, and the points."""
    rng = np.random.default_rng(3)
    points = np.float32(20 * rng.normal(size=(2, 4, 2)))
    numbers = np.stack([rng.permutation(64) % 4 for _ in range(2)], axis=1)
    x = np.concatenate([points[m][numbers[:, m]] for m in range(2)], axis=1)
    return jnp.asarray(x + 0.01 * rng.normal(size=x.shape), jnp.float32), points


# Not under a jit of its own: runs that differ in the number of iterations share one program.
FIT = functools.partial(product.fit_codebooks, num_codebooks=2, num_codewords=4)


def by_rows_of(books):
    return [sorted(book.tolist()) for book in np.asarray(books)]


HAND_X = jnp.array([[0.0, 30.0], [2.0, -2.0], [10.0, 34.0], [12.0, -4.0], [1e3, 1e3]])
HAND_MASK = jnp.arange(5) < 4


@pytest.mark.parametrize(
    ("num_iterations", "due"),
    [
        (0, [[0, 2], [30, 34]]),
        # {0}, {2, 10, 12}; {30, -2, -4}, {34}
        (1, [[0, 8], [8, 34]]),
        # {0, 2}, {10, 12}; {-2, -4}, {30, 34}
        (2, [[1, 11], [-3, 32]]),
        (3, [[1, 11], [-3, 32]]),
    ],
)
def test_refine_codebooks_made_by_hand(num_iterations, due):
    start = jnp.array([[[0.0], [2.0]], [[30.0], [34.0]]])
    got = product.refine_codebooks(start, HAND_X, num_iterations, HAND_MASK)
    np.testing.assert_allclose(got[..., 0], due, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fit_codebooks_made_by_hand(seed):
    # These four rows end in the same two pairs from whichever two of them it starts.
    got = FIT(jax.random.key(seed), HAND_X, num_codewords=2, mask=HAND_MASK)
    np.testing.assert_allclose(np.sort(got[..., 0]), [[1, 11], [-3, 32]], rtol=1e-6)


def test_fit_codebooks_finds_planted_clusters():
    x, points = planted()
    books = FIT(jax.random.key(0), x)
    assert books.dtype == jnp.float32
    np.testing.assert_allclose(by_rows_of(books), by_rows_of(points), atol=0.02)


def test_fit_codebooks_runs_as_many_iterations_as_told():
    x, key = X[:, :4], jax.random.key(0)
    fits = {n: np.asarray(FIT(key, x, num_iterations=n)) for n in (0, 1, 25)}
    start = jnp.asarray(fits[0])
    for codeword in fits[0].reshape(-1, 2):
        assert any(np.array_equal(codeword, part) for part in np.asarray(x).reshape(-1, 2))
    for n in (1, 25):
        due = product.refine_codebooks(start, x, n)
        np.testing.assert_allclose(fits[n], due, rtol=1e-5, atol=1e-6)
    assert not np.allclose(fits[1], fits[25])


def test_fit_codebooks_runs_12_iterations_unless_told_otherwise():
    # 2,048 rows on a line take 8 codewords some 30 iterations to settle.
    x = jnp.linspace(0, 1, 2048)[:, None] ** jnp.array([1, 3])
    line = functools.partial(FIT, jax.random.key(0), x, num_codewords=8)
    got = np.asarray(line())
    for num_iterations in (11, 12, 13):
        gap = np.max(np.abs(got - line(num_iterations=num_iterations)))
        assert (gap > 1e-4) == (num_iterations != 12)


def test_fit_codebooks_draws_anew_for_every_key_and_subspace():
    twice = jnp.concatenate([X[:, :2], X[:, :2]], axis=1)
    one, other = (np.asarray(FIT(jax.random.key(s), twice, num_iterations=0)) for s in (0, 1))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_mask_drops_rows():
    x, mask = X[:, :4], np.arange(ROWS) % 3 != 0
    padded = jnp.where(mask[:, None], x, 1e3)
    key = jax.random.key(4)
    got, due = FIT(key, padded, mask=jnp.asarray(mask)), FIT(key, x[mask])
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got, FIT(key, padded))
    got = product.refine_codebooks(due[:, ::-1] + 0.3, padded, 2, jnp.asarray(mask))
    due = product.refine_codebooks(due[:, ::-1] + 0.3, x[mask], 2)
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


def test_refine_codebooks_moves_every_subspace_from_where_it_stands():
    x = X[:, :4]
    start = jnp.stack([x[:4, :2], x[4:8, 2:]])
    got = np.asarray(product.refine_codebooks(start, x, 1))
    numbers = oracles.encode(start, x)
    for m in range(2):
        for k in range(4):
            due = np.mean(np.asarray(x)[numbers[:, m] == k, 2 * m : 2 * m + 2], axis=0)
            np.testing.assert_allclose(got[m, k], due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", ["planted", "normal"])
def test_rows_sharded_over_eight_devices_fit_as_on_one(rows):
    x = planted()[0] if rows == "planted" else X[:, :4]
    mask = jnp.arange(len(x)) < len(x) - 5
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    key = jax.random.key(5)
    due = FIT(key, x, mask=mask)
    got = FIT(key, jax.device_put(x, by_rows), mask=jax.device_put(mask, by_rows))
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-5)
    codes = jax.jit(product.encode)(due, jax.device_put(x, by_rows))
    np.testing.assert_array_equal(codes, product.encode(due, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: FIT(jax.random.key(0), X[:, :5]),
            "num_codebooks must divide .* got 2 codebooks for D = 5",
        ),
        (
            lambda: FIT(jax.random.key(0), X, num_codewords=257),
            "num_codewords must be between 2 and 256, got 257",
        ),
        (
            lambda: FIT(jax.random.key(0), X, num_codewords=41),
            "at least as many rows as codewords, got 40 rows for K = 41",
        ),
        (
            lambda: product.refine_codebooks(BOOKS, X[:, :5], 1),
            r"x must have shape \[N, 6\].* got \(40, 5\)",
        ),
        (
            lambda: FIT(jax.random.key(0), X, mask=jnp.ones(ROWS - 1, bool)),
            r"mask must have shape \(40,\), got \(39,\)",
        ),
        (
            lambda: product.refine_codebooks(BOOKS, X, 1, jnp.ones((ROWS, 1), bool)),
            r"mask must have shape \(40,\), got \(40, 1\)",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
