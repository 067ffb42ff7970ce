"""How likely ranks drawn from a level of ties hold none of its relevant items."""

import numpy as np

from quantjax.metrics.harmonic import Array

_EXPLICIT = 8
# log Gamma(x + 1/2) = x log x - x + log(2 pi) / 2 + sum_k _STIRLING[k] / x^(2k + 1)
_STIRLING = (-1 / 24, 7 / 2880, -31 / 40320, 127 / 215040, -511 / 608256, 1414477 / 738017280)
_CERTAIN = 1 - 1e-7


def miss_exponent(items: Array, relevant: Array, ranks: Array) -> Array:
    """Computes -log of the chance that r ranks of n items miss all p relevant ones.

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
    for j in range(1, _EXPLICIT + 1):
        explicit = explicit - _log_kept(y + j, relevant, ranks)
    y = y + (_EXPLICIT + 0.5)
    main = y * _log_kept(y, relevant, ranks)
    main = (
        main
        + ranks * xp.log1p(relevant / (y + ranks))
        + relevant * xp.log1p(ranks / (y + relevant))
    )
    upper = _stirling(y + relevant + ranks) - _stirling(y + relevant)
    lower = _stirling(y + ranks) - _stirling(y)
    return xp.where(left > -1, explicit + main + upper - lower, np.inf)


def _log_kept(y, relevant, ranks):
    # Rounded, z can reach 1, or pass it.
    xp = y.__array_namespace__()
    share = (relevant / (y + ranks)) * (ranks / (y + relevant))
    return xp.log1p(-xp.minimum(share, _CERTAIN))


def _stirling(x):
    inverse_square = 1.0 / (x * x)
    value = 0.0 * x
    for coefficient in reversed(_STIRLING):
        value = value * inverse_square + coefficient
    return value / x
