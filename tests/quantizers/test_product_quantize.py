import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quantjax.quantizers import product
from tests.quantizers import oracles

M, K, WIDTH, ROWS = 3, 8, 2, 40
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


@pytest.mark.parametrize("base", [2, 3])
def test_soft_assign_made_by_hand(base):
    # Squared distances 0, 1 and 1, 4: at T = 1 / log(b) one more is a weight b times less.
    books = jnp.array([[[0.0], [1.0]], [[2.0], [5.0]]])
    got = product.soft_assign(books, jnp.array([[0.0, 3.0]]), temperature=1 / math.log(base))
    far = base**3
    due = [[[base / (base + 1), 1 / (base + 1)]], [[far / (far + 1), 1 / (far + 1)]]]
    np.testing.assert_allclose(got, due, rtol=1e-5)


# The first slice is at squared distances 0.25 and 2.25 from its codewords, the second next to 7.
HAND_BOOKS, HAND_X = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]]), jnp.array([[1.5, 6.5]])


def test_quantize_made_by_hand():
    def first(books, x):
        quantized = product.quantize(books, x, temperature=2 / math.log(3))
        return quantized[0, 0], quantized

    (of_books, of_x), value = jax.grad(first, argnums=(0, 1), has_aux=True)(HAND_BOOKS, HAND_X)
    np.testing.assert_array_equal(value, [[1, 7]])
    # Weights 3/4 and 1/4. The value would rise by 3 - 1 for each unit of the second weight, which
    # rises by w (1 - w) / T = 3 log(3) / 32 for each unit that the first distance exceeds the other
    # by: 2 (x - 1) - 2 (x - 3) = 4 of x, 2 (1 - x) = -1 and -2 (3 - x) = -3 of the codewords.
    rate = 2 * 3 * math.log(3) / 32
    np.testing.assert_allclose(of_x, [[4 * rate, 0]], rtol=1e-5)
    np.testing.assert_allclose(of_books, [[[1 - rate], [-3 * rate]], [[0], [0]]], rtol=1e-5)


def test_quantize_identity_made_by_hand():
    def weighed(books, x):
        quantized = product.quantize_identity(books, x)
        return 3 * quantized[0, 0] - quantized[0, 1], quantized

    (of_books, of_x), value = jax.grad(weighed, argnums=(0, 1), has_aux=True)(HAND_BOOKS, HAND_X)
    np.testing.assert_array_equal(value, [[1, 7]])
    np.testing.assert_array_equal(of_x, [[3, -1]])
    np.testing.assert_array_equal(of_books, [[[3], [0]], [[0], [-1]]])


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
