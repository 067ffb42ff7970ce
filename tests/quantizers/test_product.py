import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quantjax.quantizers import product
from tests.quantizers import oracles

M, K, WIDTH, ROWS, QUERIES = 3, 8, 2, 40, 5
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, WIDTH)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * WIDTH)), jnp.float32)


def soft_codewords(codebooks, x, books, temperature):
    """Sums `books` by the softmax of `codebooks`, subspace by subspace: the surrogate."""
    parts = []
    for m in range(M):
        gaps = x[:, None, m * WIDTH : (m + 1) * WIDTH] - codebooks[m]
        parts.append(jax.nn.softmax(-jnp.sum(gaps**2, axis=-1) / temperature, axis=-1) @ books[m])
    return jnp.concatenate(parts, axis=1)


def hard_codewords(codebooks, x):
    one_hot = np.eye(K, dtype=np.float32)[oracles.encode(codebooks, x)]
    return jnp.concatenate([one_hot[:, m] @ codebooks[m] for m in range(M)], axis=1)


def test_split_cuts_contiguous_slices():
    got = product.split(jnp.arange(12).reshape(2, 6), 3)
    np.testing.assert_array_equal(got, [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]])
    assert product.split(X, 1).shape == (1, ROWS, 6)


def test_encode_equals_brute_force():
    got = product.encode(BOOKS, X)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, oracles.encode(BOOKS, X))
    assert len(np.unique(got)) == K


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


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_soft_assign_is_a_softmax_of_negative_squared_distances(temperature):
    got = product.soft_assign(BOOKS, X, temperature=temperature)
    gaps = np.float64(X).reshape(ROWS, M, 1, WIDTH) - np.float64(BOOKS)
    weights = np.exp(-np.sum(gaps**2, axis=-1) / temperature).transpose(1, 0, 2)
    due = weights / np.sum(weights, axis=-1, keepdims=True)
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_quantize_is_decode_of_encode_bit_for_bit(scale, temperature):
    books, x = BOOKS * scale, X * scale
    got = jax.jit(product.quantize)(books, x, temperature=temperature)
    np.testing.assert_array_equal(got, product.decode(books, product.encode(books, x)))


def test_quantize_keeps_the_dtype_of_the_embeddings():
    low = X.astype(jnp.bfloat16)
    got = product.quantize(BOOKS, low, temperature=1.0)
    due = product.decode(BOOKS, product.encode(BOOKS, low)).astype(jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(got), np.float32(due))


def gradients(function, books, x):
    """Of the squared error to a fixed target, by codebooks and embeddings."""
    pull = 2 * (hard_codewords(books, x) - X[::-1])
    loss = jax.jit(jax.grad(lambda b, x: jnp.sum(pull * function(b, x)), argnums=(0, 1)))
    return loss(books, x)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_quantize_gives_embeddings_the_gradient_of_the_soft_assignment(temperature):
    quantize = functools.partial(product.quantize, temperature=temperature)
    got = gradients(quantize, BOOKS, X)[1]
    due = gradients(lambda b, x: soft_codewords(b, x, BOOKS, temperature), BOOKS, X)[1]
    assert float(jnp.max(jnp.abs(due))) > 0.1
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0])
def test_quantize_gives_the_temperature_the_gradient_of_the_soft_assignment(temperature):
    got, due = (
        jax.grad(
            lambda t, f=function: jnp.sum(jnp.sin(jnp.arange(X.size)).reshape(X.shape) * f(t))
        )(jnp.float32(temperature))
        for function in (
            lambda t: product.quantize(BOOKS, X, temperature=t),
            lambda t: soft_codewords(BOOKS, X, BOOKS, t),
        )
    )
    assert abs(due) > 1e-3
    np.testing.assert_allclose(got, due, rtol=2e-3)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_quantize_gives_codewords_their_rows_and_the_softmax_term(temperature):
    quantize = functools.partial(product.quantize, temperature=temperature)
    got = gradients(quantize, BOOKS, X)[0]
    rows = gradients(lambda b, x: hard_codewords_of(b, BOOKS, x), BOOKS, X)[0]
    softmax = gradients(lambda b, x: soft_codewords(b, x, BOOKS, temperature), BOOKS, X)[0]
    assert float(jnp.max(jnp.abs(rows))) > 1
    assert float(jnp.max(jnp.abs(softmax))) > 1
    np.testing.assert_allclose(got, rows + softmax, rtol=1e-4, atol=1e-4)


def hard_codewords_of(codebooks, assigned_by, x):
    numbers = oracles.encode(assigned_by, X)
    return jnp.concatenate([codebooks[m][numbers[:, m]] for m in range(M)], axis=1) + 0 * x


def test_quantize_has_finite_gradients_at_awkward_points():
    loss = jax.jit(
        jax.grad(
            lambda b, x: jnp.sum(product.quantize(b, x, temperature=1.0).astype(jnp.float32) ** 2),
            argnums=(0, 1),
        )
    )
    equal = jnp.broadcast_to(BOOKS[:, :1], BOOKS.shape)
    long = 1e4 * X / jnp.linalg.norm(X, axis=1, keepdims=True)
    for books, x in ((BOOKS, 0 * X), (0 * BOOKS, X), (equal, X), (BOOKS, long), (1e4 * BOOKS, X)):
        for each in loss(books, x) + loss(books, x.astype(jnp.bfloat16)):
            assert jnp.all(jnp.isfinite(each.astype(jnp.float32)))


@pytest.mark.parametrize(("length", "temperature"), [(1.0, 0.1), (6.0, 3.0)])
def test_adam_on_the_codebooks_alone_lowers_the_distortion(length, temperature):
    x = length * X / jnp.linalg.norm(X, axis=1, keepdims=True)
    optimizer = optax.adam(0.01 * length)

    def distortion(books):
        quantized = product.quantize(books, x, temperature=temperature)
        return jnp.mean(jnp.sum((x - quantized) ** 2, axis=1))

    def step(_, carry):
        books, state = carry
        updates, state = optimizer.update(jax.grad(distortion)(books), state)
        return optax.apply_updates(books, updates), state

    start = x[: M * K].reshape(M, K, -1)[..., :WIDTH]
    end, _ = jax.jit(lambda b: jax.lax.fori_loop(0, 200, step, (b, optimizer.init(b))))(start)
    assert distortion(end) < 0.8 * distortion(start)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_quantize_identity_is_decode_of_encode_bit_for_bit(scale):
    books, x = BOOKS * scale, X * scale
    due = product.decode(books, product.encode(books, x))
    np.testing.assert_array_equal(jax.jit(product.quantize_identity)(books, x), due)
    low = product.quantize_identity(books, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16


def test_quantize_identity_copies_the_gradient_to_embeddings_and_hands_it_to_their_codewords():
    pull = X[::-1] ** 2
    loss = jax.grad(lambda b, x: jnp.sum(pull * product.quantize_identity(b, x)), argnums=(0, 1))
    for gradient in (loss, jax.jit(loss)):
        of_books, of_x = gradient(BOOKS, X)
        np.testing.assert_array_equal(of_x, pull)
        due, numbers = np.zeros(BOOKS.shape), oracles.encode(BOOKS, X)
        for n in range(ROWS):
            for m in range(M):
                due[m, numbers[n, m]] += pull[n, m * WIDTH : (m + 1) * WIDTH]
        np.testing.assert_allclose(of_books, due, rtol=1e-5, atol=1e-6)


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


@functools.cache
def planted():
    """Rows on 4 well separated points in either of 2 subspaces, and the points."""
    rng = np.random.default_rng(3)
    points = np.float32(20 * rng.normal(size=(2, 4, 2)))
    numbers = np.stack([rng.permutation(64) % 4 for _ in range(2)], axis=1)
    x = np.concatenate([points[m][numbers[:, m]] for m in range(2)], axis=1)
    return jnp.asarray(x + 0.01 * rng.normal(size=x.shape), jnp.float32), points


FIT = functools.partial(product.fit_codebooks, num_codebooks=2, num_codewords=4)
fit = jax.jit(FIT, static_argnames="num_iterations")


def by_rows_of(books):
    return [sorted(book.tolist()) for book in np.asarray(books)]


def test_fit_codebooks_finds_planted_clusters():
    x, points = planted()
    books = fit(jax.random.key(0), x)
    assert books.dtype == jnp.float32
    np.testing.assert_allclose(by_rows_of(books), by_rows_of(points), atol=0.02)


def test_fit_codebooks_runs_as_many_iterations_as_told():
    x, key = X[:, :4], jax.random.key(0)
    fits = {n: np.asarray(fit(key, x, num_iterations=n)) for n in (0, 1, 25)}
    start = jnp.asarray(fits[0])
    for codeword in fits[0].reshape(-1, 2):
        assert any(np.array_equal(codeword, part) for part in np.asarray(x).reshape(-1, 2))
    for n in (1, 25):
        due = product.refine_codebooks(start, x, n)
        np.testing.assert_allclose(fits[n], due, rtol=1e-5, atol=1e-6)
    assert not np.allclose(fits[1], fits[25])


def test_fit_codebooks_runs_25_iterations_unless_told_otherwise():
    # 2,048 rows on a line take 8 codewords some 60 iterations to settle.
    x = jnp.linspace(0, 1, 2048)[:, None] ** jnp.array([1, 3])
    line = functools.partial(FIT, jax.random.key(0), x, num_codewords=8)
    got = np.asarray(line())
    for num_iterations in (24, 25, 26):
        gap = np.max(np.abs(got - line(num_iterations=num_iterations)))
        assert (gap > 1e-4) == (num_iterations != 25)


def test_fit_codebooks_draws_anew_for_every_key_and_subspace():
    twice = jnp.concatenate([X[:, :2], X[:, :2]], axis=1)
    one, other = (np.asarray(fit(jax.random.key(s), twice, num_iterations=0)) for s in (0, 1))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_mask_drops_rows():
    x, mask = X[:, :4], np.arange(ROWS) % 3 != 0
    padded = jnp.where(mask[:, None], x, 1e3)
    key = jax.random.key(4)
    got, due = fit(key, padded, mask=jnp.asarray(mask)), fit(key, x[mask])
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got, fit(key, padded))
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
    due = fit(key, x, mask=mask)
    got = fit(key, jax.device_put(x, by_rows), mask=jax.device_put(mask, by_rows))
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-5)
    codes = jax.jit(product.encode)(due, jax.device_put(x, by_rows))
    np.testing.assert_array_equal(codes, product.encode(due, x))


@pytest.mark.parametrize(
    "quantize", [functools.partial(product.quantize, temperature=1.0), product.quantize_identity]
)
def test_pmap_over_rows_equals_one_device(quantize):
    def loss(books, x):
        return jnp.mean(jnp.sum((X[0] - quantize(books, x)) ** 2, axis=1))

    def on_each_device(books, x):
        return jax.lax.pmean(jax.value_and_grad(loss)(books, x), "data")

    eight = jax.pmap(on_each_device, axis_name="data", in_axes=(None, 0), out_axes=None)
    got = eight(BOOKS, X.reshape(8, -1, X.shape[1]))
    for one, other in zip(got, jax.jit(jax.value_and_grad(loss))(BOOKS, X), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_arrays_of_numpy_may_be_closed_over():
    books, x = np.asarray(BOOKS), np.asarray(X)
    codes = np.asarray(product.encode(BOOKS, X))

    def everything(temperature):
        numbers = product.encode(books, x)
        return (
            product.quantize(books, x, temperature=temperature),
            product.decode(books, numbers),
            product.distances(books, x[:QUERIES], numbers),
            product.refine_codebooks(books, x, 1),
            FIT(jax.random.key(0), x[:, :4]),
        )

    due = (
        product.quantize(BOOKS, X, temperature=1.0),
        product.decode(BOOKS, codes),
        product.distances(BOOKS, X[:QUERIES], codes),
        product.refine_codebooks(BOOKS, X, 1),
        fit(jax.random.key(0), X[:, :4]),
    )
    for one, other in zip(jax.jit(everything)(1.0), due, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


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
