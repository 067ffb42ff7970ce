"""Vector lengths with a safe gradient at zero, and scales that keep squares inside float32."""

import jax
import jax.numpy as jnp


def root(squares: jax.Array) -> jax.Array:
    """Returns square roots whose derivative at zero is 0 instead of infinity.

    The length of a zero vector then has a finite gradient.

    Args:
      squares: Squared lengths of any shape, 0 or more.

    Returns:
      Roots in the same shape.
    """
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def power_of_two(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Returns power-of-two factors that scale numbers so that their squares fit in float32.

    Multiplying by a power of two is exact. The factor is 1 where the largest magnitude lies between
    2^-40 and 2^40, so that ordinary numbers keep every bit.

    Args:
      x: Numbers.
      axis: Axes that share a factor; all of them when None.

    Returns:
      Factors like x, of size 1 along the axes, without gradient.
    """
    x = jax.lax.stop_gradient(x)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    _, exponent = jnp.frexp(largest)
    # 2^-127 is no normal number, and is flushed to zero.
    factor = jnp.ldexp(jnp.ones_like(largest), jnp.clip(-exponent, -120, 120))
    ordinary = (jnp.abs(exponent) <= 40) | (largest == 0)
    return jnp.where(ordinary, jnp.ones_like(largest), factor)
