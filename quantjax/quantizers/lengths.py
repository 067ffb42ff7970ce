"""Lengths of vectors, which may be zero."""

import jax
import jax.numpy as jnp


def root(squares: jax.Array) -> jax.Array:
    """Returns square roots, of zero with derivative 0, as the length of a zero vector needs.

    Args:
      squares: Of any shape, 0 or more.

    Returns:
      Roots in the same shape.
    """
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
