import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import rotation_trick, straight_through

HARD = np.array([1.0, -1.0, 1e8, 1e-8, 0.0], np.float32)
SOFT = np.array([0.1, 1 / 3, 3.3, -7.7, 1e4], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_is_the_hard_one_bit_for_bit(dtype):
    hard, soft = jnp.asarray(HARD, dtype), jnp.asarray(SOFT, dtype)
    for function in (straight_through, jax.jit(straight_through), jax.vmap(straight_through)):
        got = function(hard, soft)
        assert got.dtype == hard.dtype
        np.testing.assert_array_equal(np.float32(got), np.float32(hard))


def test_gradient_is_the_soft_ones_and_none_is_the_hard_ones():
    def value(hard, soft):
        return jnp.sum(jnp.arange(5.0) * straight_through(jnp.sign(hard) * hard, jnp.sin(soft)))

    to_hard, to_soft = jax.grad(value, argnums=(0, 1))(HARD, SOFT)
    np.testing.assert_array_equal(to_hard, np.zeros(5))
    due = jax.grad(lambda soft: jnp.sum(jnp.arange(5.0) * jnp.sin(soft)))(SOFT)
    np.testing.assert_array_equal(to_soft, due)


def test_gradient_behind_it_is_taken_at_the_hard_value():
    gradient = jax.grad(lambda soft: straight_through(jnp.float32(3.0), 2 * soft) ** 2)
    assert gradient(jnp.float32(0.25)) == 2 * 3.0 * 2


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match=r"hard must have shape \(1, 5\), as soft has, got \(5,\)"):
        straight_through(HARD, SOFT[None])


def test_rotation_trick_made_by_hand():
    # (3, 0) becomes (0, 6): a quarter turn and twice the length, so that the gradient (1, 0) at
    # the codeword comes from a quarter turn to the right of it.
    x, quantized = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 6.0]], np.float32)

    def value(quantized, x, weights):
        return jnp.sum(weights * rotation_trick(quantized, x))

    np.testing.assert_array_equal(rotation_trick(quantized, x), quantized)
    to_quantized, to_x = jax.grad(value, argnums=(0, 1))(quantized, x, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(to_quantized, [[0, 0]])
    np.testing.assert_allclose(to_x, [[0, -2]], atol=1e-6)
    np.testing.assert_allclose(
        jax.grad(value, 1)(quantized, x, np.array([0.0, 1.0])), [[2, 0]], atol=1e-6
    )


@pytest.mark.parametrize("length", [1e-20, 1.0, 1e20])
def test_rotation_trick_keeps_the_angle_of_gradient_and_codeword(length, rng):
    x, quantized, gradient = np.float32(rng.normal(size=(3, 5, 4)))
    x, quantized = x * np.float32(length), quantized * np.float32(length)
    _, back = jax.vjp(lambda x: rotation_trick(quantized, x), x)
    (got,) = back(gradient)

    def cosines(a, b):
        return np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    np.testing.assert_allclose(
        cosines(got, x / length), cosines(gradient, quantized / length), atol=1e-5
    )
    ratio = np.linalg.norm(quantized / length, axis=1) / np.linalg.norm(x / length, axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(got, axis=1), ratio * np.linalg.norm(gradient, axis=1), rtol=1e-5
    )


def test_rotation_trick_at_zeros_and_opposites():
    x = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]], np.float32)
    quantized = np.array([[1.0, 2.0], [0.0, 0.0], [-3.0, -4.0]], np.float32)
    got = jax.grad(lambda x: jnp.sum(np.float32([3, 4]) * rotation_trick(quantized, x)))(x)
    # Straight through; nothing; and the reflection that makes -v of v.
    np.testing.assert_allclose(got, [[3, 4], [0, 0], [-3, -4]], rtol=1e-6)


def test_rotation_trick_refuses_another_shape():
    with pytest.raises(
        ValueError, match=r"^quantized must have shape \(5, 1\), as x has, got \(1, 5\)$"
    ):
        rotation_trick(HARD[None], SOFT[:, None])
