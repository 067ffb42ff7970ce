"""The logarithmic discount of DCG, summed over consecutive ranks without a table."""

import math

import numpy as np

from quantjax.metrics.harmonic import Array

_EXPLICIT = 16
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
# Midpoint Euler-Maclaurin: -f'/24 + 7 f'''/5760 - 31 f^(5)/967680 at both ends, for f = 1 / log x,
# whose n-th derivative is x^-n sum_k (-1)^k k! s(n, k) / log^(k+1) x with Stirling numbers s.
_CORRECTIONS = (
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
        return _where_long(*np.broadcast_arrays(offset, length))
    return _discount_sums(offset, length)


def _where_long(offset, length):
    # Most levels of a real-valued ranking hold one item: one logarithm, not thirty.
    sums = np.where(length > 0, 1.0 / np.log2(offset + 2.0), 0.0)
    long = length > 1
    sums[long] = _discount_sums(offset[long], length[long])
    return sums


def _discount_sums(offset, length):
    xp = offset.__array_namespace__()
    explicit = 0.0
    for t in range(1, _EXPLICIT + 1):
        explicit = explicit + xp.where(length >= t, 1.0 / xp.log(offset + (t + 1.0)), 0.0)
    beyond = xp.maximum(length - _EXPLICIT, 0)
    x = offset + (_EXPLICIT + 1.5)
    start, span = xp.log(x), xp.log1p(beyond / x)
    integral = 0.0
    for node, weight in zip((_NODES + 1) / 2, _WEIGHTS / 2, strict=True):
        log = float(node) * span
        integral = integral + float(weight) * xp.exp(log) / (start + log)
    tail = x * span * integral + _correction(x + beyond) - _correction(x)
    # Masked: compiled, the correction at x is not always the correction at x.
    return math.log(2) * (explicit + xp.where(beyond > 0, tail, 0.0))


def _correction(x):
    xp = x.__array_namespace__()
    inverse_log = 1.0 / xp.log(x)
    correction = 0.0
    for order, (factor, numerators) in enumerate(_CORRECTIONS):
        derivative = 0.0
        for numerator in reversed(numerators):
            derivative = (derivative + numerator) * inverse_log
        correction = correction + factor * derivative * inverse_log / x ** (2 * order + 1)
    return correction
