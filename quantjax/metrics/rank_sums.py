"""Sums over consecutive ranks in closed form, accurate to the last digits at any rank.

Written once for both array modules: NumPy arrays are summed in float64, JAX arrays in JAX's
default float (float32).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

_BLOCK = 256  # levels that are summed at once

# Not scipy.special: a difference of two digammas keeps 10 digits of 1 / (a + 1) at a = 100,000, and
# r - a (H_{a+r} - H_a) keeps 5; of four log-gammas float32 keeps none. JAX counts need a closed
# form in any case, because a level may hold 2^31 ranks.

# Terms that are summed as they stand: they put x at 8.5 or more, where six corrections of an
# asymptotic series reach the last digits.
_HARMONIC_TERMS = 8
_HARMONIC_CORRECTIONS = (
    1 / 24,
    -7 / 960,
    31 / 8064,
    -127 / 30720,
    511 / 67584,
    -1414477 / 67092480,
)
# Of atanh, up to w = 1/5, where the 13th term is below the rounding of the first.
_RESIDUAL = tuple(1 / (2 * k + 3) for k in range(12))


def sum_over_levels(values: Array) -> Array:
    """Sums real values over the levels of a ranking, in blocks.

    In float32, 60,000 values added one after another lose four digits, and the order in which a
    compiler adds them depends on the processor.

    Args:
      values: [Q, levels].

    Returns:
      Sums [Q], to 1e-6 of the sum of the values' sizes in float32.
    """
    if isinstance(values, np.ndarray) or values.shape[1] <= _BLOCK:
        return values.sum(1)
    short = -values.shape[1] % _BLOCK
    blocks = jnp.pad(values, ((0, 0), (0, short))).reshape(len(values), -1, _BLOCK).sum(2)
    # Without the barrier the compiler makes one sum of the two.
    return jax.lax.optimization_barrier(blocks).sum(1)


def ramp_over_ranks(offset: Array, length: Array, *, first: Array, step: Array | float) -> Array:
    """Sums a linear ramp divided by the rank: (b + (t - 1) s) / (a + t) over t = 1..r.

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
        return _harmonic_where_long(*np.broadcast_arrays(offset, length))
    return _harmonic_sums(offset, length)


def _harmonic_where_long(offset, length):
    # Most levels of a real-valued ranking hold one item: a division, not a hundred operations.
    reciprocals = np.where(length > 0, 1.0 / (offset + 1.0), 0.0)
    ratios = reciprocals.copy()
    long = length > 1
    reciprocals[long], ratios[long] = _harmonic_sums(offset[long], length[long])
    return reciprocals, ratios


def _harmonic_sums(offset, length):
    xp = offset.__array_namespace__()
    reciprocals = ratios = 0.0
    for t in range(1, _HARMONIC_TERMS + 1):
        term = xp.where(length >= t, 1.0 / (offset + t), 0.0)
        reciprocals, ratios = reciprocals + term, ratios + t * term
    beyond = xp.maximum(length - _HARMONIC_TERMS, 0)
    x = offset + (_HARMONIC_TERMS + 0.5)
    growth = beyond / x
    logarithm = xp.log1p(growth)
    end = offset + beyond + (_HARMONIC_TERMS + 0.5)
    correction = _harmonic_correction(end) - _harmonic_correction(x)
    # Masked: compiled for CPU, c(x) - c(x) is not always 0, and no ranks must sum to exactly 0.
    tail = xp.where(beyond > 0, logarithm + correction, 0.0)
    weighted = x * _log1p_residual(growth) + 0.5 * logarithm - (x - 0.5) * correction
    weighted = xp.where(beyond > 0, weighted, 0.0)
    return reciprocals + tail, ratios + _HARMONIC_TERMS * tail + weighted


def _harmonic_correction(x):
    inverse_square = 1.0 / (x * x)
    return inverse_square * _polynomial(_HARMONIC_CORRECTIONS, inverse_square)


def _log1p_residual(z):
    # z - log1p(z). Below 1/2 by log1p(z) = 2 atanh(w), w = z / (2 + z), where z - 2w = wz.
    xp = z.__array_namespace__()
    w = z / (2.0 + z)
    square = w * w
    series = w * (z - 2.0 * square * _polynomial(_RESIDUAL, square))
    return xp.where(z < 0.5, series, z - xp.log1p(z))


# From x = 17.5 on, the third correction and 12 nodes leave 1e-13 even of 2^31 ranks.
_DISCOUNT_TERMS = 16
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
# Midpoint Euler-Maclaurin: -f'/24 + 7 f'''/5760 - 31 f^(5)/967680 at both ends, for f = 1 / log x,
# whose n-th derivative is x^-n sum_k (-1)^k k! s(n, k) / log^(k+1) x with Stirling numbers s.
_DISCOUNT_CORRECTIONS = (
    (-1 / 24, (-1,)),
    (7 / 5760, (-2, -6, -6)),
    (-31 / 967680, (-24, -100, -210, -240, -120)),
)


def discount_sums(offset: Array, length: Array) -> Array:
    """Sums 1 / log2(a + t + 1) over t = 1..r: the discounts of the ranks a + 1 to a + r.

    Sixteen terms are summed as they stand. The others are the integral of 1 / log x from
    X = a + 17 + 1/2 to X + m, by Gauss-Legendre quadrature in log x / X, and its Euler-Maclaurin
    corrections. Every part is positive, and none is a difference of two sums from rank 1, in which
    a short stretch far down the ranking would lose its digits.

    Args:
      offset: a, integers >= 0, any shape.
      length: r, integers >= 0, of the same shape; 0 gives 0.

    Returns:
      The sums, to 1e-13 of their value in float64 and 6e-7 in float32.
    """
    if isinstance(offset, np.ndarray) and isinstance(length, np.ndarray):
        return _discount_where_long(*np.broadcast_arrays(offset, length))
    return _discount_sums(offset, length)


def _discount_where_long(offset, length):
    # Most levels of a real-valued ranking hold one item: one logarithm, not thirty.
    sums = np.where(length > 0, 1.0 / np.log2(offset + 2.0), 0.0)
    long = length > 1
    sums[long] = _discount_sums(offset[long], length[long])
    return sums


def _discount_sums(offset, length):
    xp = offset.__array_namespace__()
    explicit = 0.0
    for t in range(1, _DISCOUNT_TERMS + 1):
        explicit = explicit + xp.where(length >= t, 1.0 / xp.log(offset + (t + 1.0)), 0.0)
    beyond = xp.maximum(length - _DISCOUNT_TERMS, 0)
    x = offset + (_DISCOUNT_TERMS + 1.5)
    start, span = xp.log(x), xp.log1p(beyond / x)
    integral = 0.0
    for node, weight in zip((_NODES + 1) / 2, _WEIGHTS / 2, strict=True):
        log = float(node) * span
        integral = integral + float(weight) * xp.exp(log) / (start + log)
    tail = x * span * integral + _discount_correction(x + beyond) - _discount_correction(x)
    # Masked: compiled, the correction at x is not always the correction at x.
    return math.log(2) * (explicit + xp.where(beyond > 0, tail, 0.0))


def _discount_correction(x):
    xp = x.__array_namespace__()
    inverse_log = 1.0 / xp.log(x)
    correction = 0.0
    for order, (factor, numerators) in enumerate(_DISCOUNT_CORRECTIONS):
        derivative = 0.0
        for numerator in reversed(numerators):
            derivative = (derivative + numerator) * inverse_log
        correction = correction + factor * derivative * inverse_log / x ** (2 * order + 1)
    return correction


_DRAW_TERMS = 8
# log Gamma(x + 1/2) = x log x - x + log(2 pi) / 2 + sum_k _STIRLING[k] / x^(2k + 1)
_STIRLING = (-1 / 24, 7 / 2880, -31 / 40320, 127 / 215040, -511 / 608256, 1414477 / 738017280)
_CERTAIN = 1 - 1e-7  # float32 tells it from 1, where log1p is infinite


def miss_exponent(items: Array, relevant: Array, ranks: Array) -> Array:
    """Returns -log of the probability that r of n ranks hold none of the p relevant items.

    The chance is C(n - p, r) / C(n, r), so with f(m) = log m! the exponent is the second
    difference f(n) - f(n - p) - f(n - r) + f(n - p - r). As four log-gammas it has no digits left
    in float32. Here every term of it is a positive log1p or cancels by a factor of 3 at most: with
    x = n - p - r,

        L = sum_{j=1..8} -log1p(-z(x + j)) + (the same for all further j), z(y) = pr / (y+p)(y+r),

    and the further ones are Stirling's series at y = x + 8 + 1/2, whose main part is
    y log1p(-z(y)) + r log1p(p / (y + r)) + p log1p(r / (y + p)).

    Args:
      items: n, integers, any shape.
      relevant: p, integers from 0 to n.
      ranks: r, from 0 to n; need not be whole: the factorials are then the Gamma function.

    Returns:
      L >= 0, to 4e-15 of its value in float64 and 1e-6 in float32 up to about L = 100, beyond
      which the chance is 0 in any case; infinite where r > n - p.
    """
    xp = items.__array_namespace__()
    left = items - relevant - ranks
    y = xp.maximum(left, -0.5)
    explicit = 0.0
    for j in range(1, _DRAW_TERMS + 1):
        explicit = explicit - _log_kept(y + j, relevant, ranks)
    y = y + (_DRAW_TERMS + 0.5)
    main = y * _log_kept(y, relevant, ranks) + ranks * xp.log1p(relevant / (y + ranks))
    main = main + relevant * xp.log1p(ranks / (y + relevant))
    upper = _stirling(y + relevant + ranks) - _stirling(y + relevant)
    lower = _stirling(y + ranks) - _stirling(y)
    return xp.where(left > -1, explicit + main + upper - lower, np.inf)


def _log_kept(y, relevant, ranks):
    # Rounded, z can reach 1, or pass it.
    xp = y.__array_namespace__()
    share = (relevant / (y + ranks)) * (ranks / (y + relevant))
    return xp.log1p(-xp.minimum(share, _CERTAIN))


def _stirling(x):
    return _polynomial(_STIRLING, 1.0 / (x * x)) / x


def _polynomial(coefficients, x):
    value = 0.0 * x
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value
