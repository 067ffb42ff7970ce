import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import straight_through

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
    with pytest.raises(ValueError, match=r"hard must have the shape of soft, \(1, 5\), got \(5,\)"):
        straight_through(HARD, SOFT[None])
