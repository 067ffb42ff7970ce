"""Gradient estimators: the value of a quantized array with the gradient of its embedding."""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape


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
    check_shape("hard", hard, *soft.shape, beside=", as soft has")
    check_finite("hard", hard)
    check_finite("soft", soft)
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def rotation_trick(quantized: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the value of `quantized` exactly, with a gradient turned and scaled as the vectors.

    q = (|q| / |x|) R x, the scale and R held constant: R = I - 2 r r^T + 2 u v^T, with u = q / |q|,
    v = x / |x| and r = (u + v) / |u + v|, is the rotation that turns x into q in the plane of both.
    The gradient at q keeps its angle to q on its way to x, where `straight_through` keeps its
    direction. It grows as |x| falls. At x = 0, which has no direction, it passes unchanged.

    Args:
      quantized: The value, [..., d], such as the nearest codeword of each slice; no gradient
        reaches what made it.
      x: What was quantized, [..., d]: one vector along the last axis.

    Returns:
      An array equal to `quantized`, in its type.

    Raises:
      ValueError: if the shapes differ.

    Reference:
      Fifty et al., Restructuring Vector Quantization with the Rotation Trick, ICLR 2025,
      arXiv 2410.06424.
    """
    check_shape("quantized", quantized, *x.shape, beside=", as x has")
    check_finite("quantized", quantized)
    check_finite("x", x)
    wide = jnp.asarray(x, jnp.float32)
    from_length, from_unit = _length_and_unit(jax.lax.stop_gradient(wide))
    to_length, to_unit = _length_and_unit(jax.lax.stop_gradient(quantized))
    # Of opposite vectors the middle is 0, and R reflects one into the other.
    _, middle = _length_and_unit(from_unit + to_unit)
    turned = wide - 2 * middle * _dot(middle, wide) + 2 * to_unit * _dot(from_unit, wide)
    turned = turned * (to_length / jnp.where(from_length > 0, from_length, 1))
    moved = jnp.where(from_length > 0, turned, wide)
    return straight_through(quantized, moved.astype(quantized.dtype))


def _length_and_unit(x):
    # The length of x / max|x|, so that no square leaves float32.
    x = jnp.asarray(x, jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(_dot(x, x))
    return largest * length, x / jnp.where(length > 0, length, 1)


def _dot(a, b):
    return jnp.sum(a * b, axis=-1, keepdims=True)
