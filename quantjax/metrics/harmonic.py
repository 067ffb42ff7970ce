"""Sums over consecutive ranks in closed form, accurate to the last digits at any rank.

Written once for both array modules: NumPy arrays are summed in float64, JAX arrays in JAX's
default float (float32).
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray

_EXPLICIT = 8
_CORRECTIONS = (1 / 24, -7 / 960, 31 / 8064, -127 / 30720, 511 / 67584, -1414477 / 67092480)
_RESIDUAL = tuple(1 / (2 * k + 3) for k in range(12))


def ramp_over_ranks(offset: Array, length: Array, *, first: Array, step: Array | float) -> Array:
    """Sums a ramp divided by the ranks it stands on.

    sum_{t=1..r} (b + (t - 1) s) / (a + t), with a = offset, r = length, b = first, s = step.
    Split into (b - s) sum 1 / (a + t) + s sum t / (a + t): for b >= s both parts are positive, so
    nothing cancels. (evaluation.md's s r + (b - s (a + 1)) (H_{a+r} - H_a) loses all digits of a
    small sum when r << a.)

    Args:
      offset: Ranks before the ramp, integers >= 0, any shape.
      length: Ranks under the ramp, integers >= 0; 0 gives 0.
      first: Value at the first rank, at least `step`.
      step: What each further rank adds.

    Returns:
      The sums, in the arguments' common shape.
    """
    reciprocals, ratios = harmonic_sums(offset, length)
    return (first - step) * reciprocals + step * ratios


def harmonic_sums(offset: Array, length: Array) -> tuple[Array, Array]:
    """Sums 1 / (a + t) and t / (a + t) over t = 1..r.

    The first is H_{a+r} - H_a, the second r - a (H_{a+r} - H_a). Eight terms are summed as they
    stand. The others, m = r - 8 of them, use psi(x + 1/2) = log x + c(x) with
    c(x) = 1 / 24x^2 - 7 / 960x^4 + ..., at x = a + 8 + 1/2 and x + m: the difference is
    log1p(m / x) + c(x + m) - c(x), never a difference of two logarithms.

    Args:
      offset: a, integers >= 0, any shape.
      length: r, integers >= 0, of a shape that broadcasts with it.

    Returns:
      Both sums, to about 1e-15 of their value in float64 and 5e-7 in float32.
    """
    if isinstance(offset, np.ndarray) and isinstance(length, np.ndarray):
        return _where_long(*np.broadcast_arrays(offset, length))
    return _harmonic_sums(offset, length)


def _where_long(offset, length):
    # Most levels of a real-valued ranking hold one item: a division, not a hundred operations.
    reciprocals = np.where(length > 0, 1.0 / (offset + 1.0), 0.0)
    ratios = reciprocals.copy()
    long = length > 1
    reciprocals[long], ratios[long] = _harmonic_sums(offset[long], length[long])
    return reciprocals, ratios


def _harmonic_sums(offset, length):
    xp = offset.__array_namespace__()
    reciprocals = ratios = 0.0
    for t in range(1, _EXPLICIT + 1):
        term = xp.where(length >= t, 1.0 / (offset + t), 0.0)
        reciprocals, ratios = reciprocals + term, ratios + t * term
    beyond = xp.maximum(length - _EXPLICIT, 0)
    x = offset + (_EXPLICIT + 0.5)
    growth = beyond / x
    logarithm = xp.log1p(growth)
    correction = _correction(offset + beyond + (_EXPLICIT + 0.5)) - _correction(x)
    # Masked: compiled for CPU, c(x) - c(x) is not always 0, and no ranks must sum to exactly 0.
    tail = xp.where(beyond > 0, logarithm + correction, 0.0)
    weighted = x * _log1p_residual(growth) + 0.5 * logarithm - (x - 0.5) * correction
    weighted = xp.where(beyond > 0, weighted, 0.0)
    return reciprocals + tail, ratios + _EXPLICIT * tail + weighted


def _correction(x):
    inverse_square = 1.0 / (x * x)
    return inverse_square * _polynomial(_CORRECTIONS, inverse_square)


def _log1p_residual(z):
    # z - log1p(z). Below 1/2 by log1p(z) = 2 atanh(w), w = z / (2 + z), where z - 2w = wz.
    xp = z.__array_namespace__()
    w = z / (2.0 + z)
    square = w * w
    series = w * (z - 2.0 * square * _polynomial(_RESIDUAL, square))
    return xp.where(z < 0.5, series, z - xp.log1p(z))


def _polynomial(coefficients, x):
    value = 0.0 * x
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value
