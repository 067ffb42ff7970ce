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


def hard_codewords_of(codebooks, numbers):
    return jnp.concatenate([codebooks[m][numbers[:, m]] for m in range(M)], axis=1)


@jax.jit
def gradients(numbers, temperature):
    """Of a fixed sum, by codebooks, embeddings and temperature; of the surrogates, too."""
    pull = 2 * (hard_codewords_of(BOOKS, numbers) - X[::-1])

    def of(function):
        loss = jax.grad(lambda *arguments: jnp.sum(pull * function(*arguments)), (0, 1, 2))
        return loss(BOOKS, X, temperature)

    return (
        of(lambda books, x, t: product.quantize(books, x, temperature=t)),
        of(lambda books, x, t: soft_codewords(books, x, BOOKS, t)),
        of(lambda books, x, t: hard_codewords_of(books, numbers)),
    )


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_quantize_has_the_gradients_of_rows_and_of_the_soft_assignment(temperature):
    got, soft, rows = gradients(oracles.encode(BOOKS, X), temperature)
    assert min(np.max(np.abs(each)) for each in (rows[0], soft[0])) > 1
    np.testing.assert_allclose(got[0], rows[0] + soft[0], rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(soft[1])) > 0.1
    np.testing.assert_allclose(got[1], soft[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0])
def test_quantize_gives_the_temperature_the_gradient_of_the_soft_assignment(temperature):
    got, soft, _ = gradients(oracles.encode(BOOKS, X), temperature)
    assert abs(soft[2]) > 1e-3
    np.testing.assert_allclose(got[2], soft[2], rtol=2e-3)


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
