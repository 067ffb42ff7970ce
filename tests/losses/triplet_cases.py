"""Rows of the contract test for `quantjax.losses.triplet`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, normal


def _inner(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True))


def _squared(u, v):
    return sum((a - b) ** 2 for a, b in zip(u, v, strict=True))


def _cosine(u, v):
    lengths = math.sqrt(_inner(u, u) * _inner(v, v))
    return _inner(u, v) / lengths if lengths else 0.0


def _sign(u):
    return [1.0 if a >= 0 else -1.0 for a in u]


def _code(u, at):
    """What stands for the code: its value the sign, its derivative the clipped identity's."""
    return np.array(_sign(at)) + np.clip(u, -1, 1) - np.clip(at, -1, 1)


def _margin(a, p, n, at, margin):
    return max(margin + _squared(a, p) - _squared(a, n), 0)


def _likelihood(a, p, n, at, margin, scale=0.5):
    t = scale * _inner(a, p) - scale * _inner(a, n) - margin
    return np.logaddexp(0, t) - t


def _sigmoid(a, p, n, at):
    return np.exp(-np.logaddexp(0, _inner(a, p) - _inner(a, n)))


def _quantization(a, p, n, at, margin):
    a, p, n = (_code(u, v) for u, v in zip((a, p, n), at, strict=True))
    return max(margin + (_squared(a, p) - _squared(a, n)) / (4 * len(a)), 0)


def _asymmetric(a, p, n, at, margin):
    code_a, code_p, code_n = _sign(a), _sign(p), _sign(n)
    to_codes = (_squared(a, code_p) - _squared(a, code_n)) / (4 * len(a))
    from_codes = (_squared(code_a, p) - _squared(code_a, n)) / (4 * len(a))
    return (max(margin + to_codes, 0) + max(margin + from_codes, 0)) / 2


def _order_drop(a, p, n, at):
    real_a, real_p, real_n = at
    real = (_cosine(real_a, real_p) - _cosine(real_a, real_n)) / 2
    a, p, n = (_code(u, v) for u, v in zip((a, p, n), at, strict=True))
    return max(real - (_squared(a, n) - _squared(a, p)) / (4 * len(a)), 0)


def _triplets(function, equation, settings=({},), *, straight_through=False):
    def surrogate(anchors, positives, negatives, at, **options):
        rows = zip(anchors, positives, negatives, *at, strict=True)
        return np.array([equation(*row[:3], at=row[3:], **options) for row in rows])

    def oracle(*arguments, **options):
        return surrogate(*arguments, at=arguments, **options)

    return Case(
        function,
        oracle=oracle,
        arguments=(("TD", normal),) * 3,
        result="T",
        settings=settings,
        trained=(0, 1, 2),
        surrogate=surrogate if straight_through else None,
    )


# Off the grid of sixths on which distances of codes lie: a hinge's corner has no derivative.
CODE_MARGINS = {"margin": 0.4}, {"margin": 0.75}

CASES = (
    _triplets(losses.triplet_margin, _margin, ({"margin": 2.0}, {"margin": 5.0})),
    _triplets(
        losses.triplet_likelihood,
        _likelihood,
        ({"margin": 1.0}, {"margin": 3.0}, {"margin": 3.0, "scale": 1.0}),
    ),
    _triplets(losses.triplet_sigmoid, _sigmoid),
    _triplets(losses.triplet_quantization, _quantization, CODE_MARGINS, straight_through=True),
    # At |x| = 1e4 the squares of the real legs, 1e8, leave a few hundred.
    _triplets(losses.asymmetric_triplet_quantization, _asymmetric, CODE_MARGINS)._replace(
        tolerance=1e-3
    ),
    _triplets(losses.order_drop, _order_drop, straight_through=True),
)
