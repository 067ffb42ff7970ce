"""Rows of the contract test for `quantjax.losses.contrastive`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import SIZES, Case, coin, normal


def _column(rng, shape):
    return rng.integers(-1, SIZES["N"], size=shape)  # -1 is no column at all.


def _cosine(a, b):
    lengths = math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths if lengths else 0.0


def _powers(query, keys, positive, own, skipped, temperature):
    """Returns exp(s / T) of the positive, or None where there is none, and of the negatives."""
    all_powers = {
        j: math.exp(_cosine(query, key) / temperature)
        for j, key in enumerate(keys)
        if j != own and (j == positive or not skipped[j])
    }
    return all_powers.pop(int(positive), None), list(all_powers.values())


def _rows(queries, keys, positives, selves, ignored):
    if ignored is None:
        ignored = np.zeros((len(queries), len(keys)), bool)
    return zip(queries, positives, selves, ignored, strict=True)


def _nt_xent(queries, keys, positives, selves, ignored=None, *, temperature):
    result = []
    for query, positive, own, skipped in _rows(queries, keys, positives, selves, ignored):
        p, others = _powers(query, keys, positive, own, skipped, temperature)
        result.append(0.0 if p is None else -math.log(p / (p + sum(others))))
    return np.array(result)


def _debiased(queries, keys, positives, selves, ignored=None, *, temperature, positive_prior):
    result = []
    for query, positive, own, skipped in _rows(queries, keys, positives, selves, ignored):
        p, others = _powers(query, keys, positive, own, skipped, temperature)
        if p is None:
            result.append(0.0)
            continue
        n = len(others)
        estimate = (-positive_prior * n * p + sum(others)) / (1 - positive_prior)
        result.append(-math.log(p / (p + max(estimate, n * math.exp(-1 / temperature)))))
    return np.array(result)


def _both_ways(first, second, all_first, all_second, own, ignored=None, *, temperature):
    if ignored is not None:
        ignored = np.tile(ignored, 2)
    columns = np.concatenate((all_first, all_second))
    n = len(all_first)
    others = [n + i for i in own]
    forth = _nt_xent(first, columns, others, own, ignored, temperature=temperature)
    back = _nt_xent(second, columns, own, others, ignored, temperature=temperature)
    return (forth + back) / 2


def _cross_quantized(*arguments, temperature=0.5):
    return _both_ways(*arguments, temperature=temperature)


def _cibhash(*arguments, **options):
    return _cibhash_surrogate(*arguments, at=arguments, **options)


def _cibhash_surrogate(*arguments, at, temperature=0.3, weight=0.001):
    # The codes stay those of `at` and move as the probabilities do.
    codes = [
        np.where(then >= 0, 1.0, -1.0) + (np.tanh(now / 2) - np.tanh(then / 2)) / 2
        for now, then in zip(arguments[:4], at[:4], strict=True)
    ]
    result = _both_ways(*codes, *arguments[4:], temperature=temperature)
    for views in ((arguments[0], at[1]), (arguments[1], at[0])):
        result = result + weight * np.array([_kl(*rows) for rows in zip(*views, strict=True)]) / 2
    return result


def _kl(row, constant):
    total = 0.0
    for x, y in zip(row, constant, strict=True):
        for sign in (1, -1):  # The bit is set, or is not.
            log_p, log_q = -np.logaddexp(0, -sign * x), -np.logaddexp(0, -sign * y)
            total += math.exp(log_p) * (log_p - log_q)
    return total


def _own(rng, shape):
    return rng.permutation(SIZES["N"])[: shape[0]]


_TO_COLUMNS = (("BD", normal), ("ND", normal), ("B", _column), ("B", _column))
_TWO_VIEWS = (("BD", normal), ("BD", normal), ("ND", normal), ("ND", normal), ("B", _own))


def _ignoring(case):
    """The same with some columns that are no negatives."""
    return case._replace(
        arguments=(*case.arguments, ("BN", coin)),
        remark="that ignores columns",
    )


_TO_ALL = (
    Case(
        losses.nt_xent,
        oracle=_nt_xent,
        arguments=_TO_COLUMNS,
        result="B",
        settings=({"temperature": 0.5}, {"temperature": 0.1}),
        trained=(0, 1),
    ),
    Case(
        losses.debiased_nt_xent,
        oracle=_debiased,
        arguments=_TO_COLUMNS,
        result="B",
        settings=(
            {"temperature": 0.5, "positive_prior": 0.1},
            {"temperature": 0.25, "positive_prior": 0.3},
        ),
        trained=(0, 1),
    ),
    Case(
        losses.nt_xent_of_views,
        oracle=_cross_quantized,
        arguments=_TWO_VIEWS,
        result="B",
        settings=({"temperature": 0.5}, {"temperature": 0.1}),
        trained=(0, 1, 2, 3),
    ),
    Case(
        losses.cross_quantized,
        oracle=_cross_quantized,
        arguments=_TWO_VIEWS,
        result="B",
        settings=({}, {"temperature": 0.2}),
        trained=(0, 1, 2, 3),
    ),
    Case(
        losses.cibhash,
        oracle=_cibhash,
        arguments=_TWO_VIEWS,
        result="B",
        settings=({}, {"temperature": 0.6, "weight": 0.5}),
        trained=(0, 1, 2, 3),
        surrogate=_cibhash_surrogate,
    ),
)

CASES = (*_TO_ALL, *map(_ignoring, _TO_ALL))
