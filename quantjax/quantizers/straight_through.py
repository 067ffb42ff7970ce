"""The straight-through estimator: the value of one array with the gradient of another array."""

import jax

from quantjax.arrays import check_finite
from quantjax.errors import InputError


def straight_through(hard: jax.Array, soft: jax.Array) -> jax.Array:
    """Returns the value of `hard` exactly, with the gradient of `soft`.

    The value is hard + (soft - stop_gradient(soft)), whose bracket is exactly zero; the usual
    soft + stop_gradient(hard - soft) has a rounding error. Second derivatives mean nothing: they
    are the surrogate's derivatives, at a value that the surrogate does not have.

    Args:
      hard: The value, of any shape; no gradient reaches what made it.
      soft: The differentiable surrogate, of the same shape.

    Returns:
      An array equal to `hard` whose derivative is that of `soft`.

    Raises:
      ValueError: if the shapes differ.

    Reference:
      Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons,
      arXiv 1308.3432.
    """
    if hard.shape != soft.shape:
        raise InputError(f"hard must have the shape of soft, {soft.shape}, got {hard.shape}")
    check_finite("hard", hard)
    check_finite("soft", soft)
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))
