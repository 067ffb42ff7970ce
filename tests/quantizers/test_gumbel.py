import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import gumbel, product
from tests.quantizers import devices

M, K, WIDTH, ROWS = 2, 4, 2, 40
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, WIDTH)), jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * WIDTH)), jnp.float32)
KEY = jax.random.key(0)
ASSIGN, QUANTIZE = jax.jit(gumbel.gumbel_assign), jax.jit(gumbel.gumbel_quantize)


def soft_draw(codebooks, x, noise, temperature):
    """The equation, with the noise handed in."""
    slices = x.reshape(len(x), M, 1, WIDTH)
    gaps = jnp.sum((slices - codebooks) ** 2, axis=-1).transpose(1, 0, 2)
    return jax.nn.softmax((noise - gaps) / temperature, axis=-1)


# Squared distances 0, 1 and 1, 4; less than the noise by 0, -log 3 and 0, log 4, up to a constant.
HAND_BOOKS, HAND_X = jnp.array([[[0.0], [1.0]], [[2.0], [5.0]]]), jnp.array([[0.0, 3.0]])
HAND_NOISE = jnp.array([[[0.0, 1 + math.log(3)]], [[math.log(4), 3.0]]])


@pytest.fixture
def noise_by_hand(monkeypatch):
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: HAND_NOISE.reshape(shape))


@pytest.mark.usefixtures("noise_by_hand")
@pytest.mark.parametrize(
    ("temperature", "due"),
    [
        (1.0, [[[1 / 4, 3 / 4]], [[4 / 5, 1 / 5]]]),
        (0.5, [[[1 / 10, 9 / 10]], [[16 / 17, 1 / 17]]]),
    ],
)
def test_weights_made_by_hand(temperature, due):
    got = gumbel.gumbel_assign(KEY, HAND_BOOKS, HAND_X, temperature=temperature)
    np.testing.assert_allclose(got, due, rtol=1e-5)


@pytest.mark.usefixtures("noise_by_hand")
def test_quantize_made_by_hand():
    def first(books, x):
        quantized = gumbel.gumbel_quantize(KEY, books, x, temperature=1.0)
        return quantized[0, 0], quantized

    (of_books, of_x), value = jax.grad(first, argnums=(0, 1), has_aux=True)(HAND_BOOKS, HAND_X)
    np.testing.assert_array_equal(value, [[1, 2]])
    # The weight of the drawn codeword 1 rises by 3/16 for each unit that codeword 0 is farther off:
    # 2 for each of x, 0 of codeword 0 and -2 of codeword 1, whose own row adds 1.
    np.testing.assert_allclose(of_x, [[3 / 8, 0]], rtol=1e-5)
    np.testing.assert_allclose(of_books, [[[0], [1 - 3 / 8]], [[0], [0]]], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_weights_are_a_softmax_of_distances_and_gumbel_noise(temperature):
    got = ASSIGN(KEY, BOOKS, X, temperature=temperature)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(jnp.sum(got, axis=-1), np.ones((M, ROWS)), rtol=1e-5)
    noise = jax.random.gumbel(KEY, (M, ROWS, K))
    np.testing.assert_allclose(got, soft_draw(BOOKS, X, noise, temperature), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_codewords_are_drawn_with_the_probability_of_their_distance(temperature):
    x = jnp.broadcast_to(X[:1], (4000, M * WIDTH))
    weights = ASSIGN(jax.random.key(1), BOOKS, x, temperature=temperature)
    shares = np.mean(np.eye(K)[np.argmax(weights, axis=-1)], axis=1)
    due = product.soft_assign(BOOKS, X[:1], temperature=1.0)[:, 0]
    np.testing.assert_allclose(shares, due, atol=0.03)


def test_weights_harden_as_the_temperature_falls():
    sharpest = [
        float(jnp.mean(jnp.max(ASSIGN(KEY, BOOKS, X, temperature=t), axis=-1)))
        for t in (10.0, 1.0, 0.1, 1e-3)
    ]
    assert sharpest == sorted(sharpest)
    assert sharpest[0] < 0.4
    assert sharpest[-1] > 0.999


def test_quantize_gives_the_drawn_codewords_bit_for_bit():
    drawn = np.argmax(ASSIGN(KEY, BOOKS, X, temperature=0.7), axis=-1).T
    got = QUANTIZE(KEY, BOOKS, X, temperature=0.7)
    np.testing.assert_array_equal(got, product.decode(BOOKS, drawn))
    assert not np.array_equal(drawn, product.encode(BOOKS, X))
    assert QUANTIZE(KEY, BOOKS, X.astype(jnp.bfloat16), temperature=0.7).dtype == jnp.bfloat16


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_quantize_has_the_gradient_of_the_soft_draw(temperature):
    noise = jax.random.gumbel(KEY, (M, ROWS, K))
    pull = X[::-1] ** 2
    drawn = np.argmax(soft_draw(BOOKS, X, noise, temperature), axis=-1)
    one_hot = np.eye(K, dtype=np.float32)[drawn]

    def mix(weights, books):
        return jnp.concatenate([w @ b for w, b in zip(weights, books, strict=True)], axis=1)

    def surrogate(books, x):
        # Weights move as the soft draw's; codewords get their rows besides.
        soft = soft_draw(books, x, noise, temperature)
        return jnp.sum(pull * (mix(soft, jax.lax.stop_gradient(books)) + mix(one_hot, books)))

    def value(books, x):
        return jnp.sum(pull * gumbel.gumbel_quantize(KEY, books, x, temperature=temperature))

    got = jax.jit(jax.grad(value, argnums=(0, 1)))(BOOKS, X)
    due = jax.jit(jax.grad(surrogate, argnums=(0, 1)))(BOOKS, X)
    for one, other in zip(got, due, strict=True):
        assert float(jnp.max(jnp.abs(other))) > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_jit_equals_eager_and_a_sharded_batch_one_device():
    due = gumbel.gumbel_assign(KEY, BOOKS, X, temperature=1.0)
    np.testing.assert_allclose(ASSIGN(KEY, BOOKS, X, temperature=1.0), due, rtol=1e-5, atol=1e-6)
    got = ASSIGN(KEY, BOOKS, *devices.by_rows(X), temperature=1.0)
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)
    other = ASSIGN(jax.random.key(1), BOOKS, X, temperature=1.0)
    assert not np.allclose(other, due, atol=0.01)


def test_weights_and_gradients_are_finite_at_awkward_points():
    def value(books, x):
        weights = gumbel.gumbel_assign(KEY, books, x, temperature=0.1)
        return jnp.sum(weights**2), weights

    function = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
    equal = jnp.broadcast_to(BOOKS[:, :1], BOOKS.shape)
    for books, x in (
        (BOOKS, 0 * X),
        (0 * BOOKS, X),
        (equal, X),
        (BOOKS, 1e4 * X),
        (1e4 * BOOKS, X),
    ):
        for dtype in ("float32", "bfloat16"):
            gradients, weights = function(books, x.astype(dtype))
            assert weights.dtype == jnp.float32
            np.testing.assert_allclose(jnp.sum(weights, axis=-1), np.ones((M, ROWS)), rtol=1e-5)
            for each in gradients:
                assert jnp.all(jnp.isfinite(each.astype(jnp.float32)))


@pytest.mark.parametrize("function", [gumbel.gumbel_assign, gumbel.gumbel_quantize])
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match=r"x must have shape \[N, 4\].* got \(40, 3\)"):
        function(KEY, BOOKS, X[:, :3], temperature=1.0)
    with pytest.raises(ValueError, match=r"codebooks must have shape \[M, K, d\], got \(4, 2\)"):
        function(KEY, BOOKS[0], X, temperature=1.0)
