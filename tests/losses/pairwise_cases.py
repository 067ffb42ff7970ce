"""Rows of the contract test for `quantjax.losses.pairwise`."""

import itertools
import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, coin, normal


def _each_pair(equation):
    def oracle(queries, database, similar, **options):
        result = np.zeros(similar.shape)
        for i, j in itertools.product(*map(range, similar.shape)):
            result[i, j] = equation(queries[i], database[j], similar[i, j], **options)
        return result

    return oracle


def _cosine(q, d, similar):
    lengths = math.sqrt(sum(a * a for a in q) * sum(b * b for b in d))
    cosine = sum(a * b for a, b in zip(q, d, strict=True)) / lengths if lengths else 0.0
    return ((1 if similar else -1) - cosine) ** 2


def _inner_product(q, d, similar):
    inner = sum(a * b for a, b in zip(q, d, strict=True))
    return ((1 if similar else -1) - inner / len(q)) ** 2


def _pairs(function, equation, settings=({},)):
    return Case(
        function,
        oracle=_each_pair(equation),
        arguments=(("QD", normal), ("ND", normal), ("QN", coin)),
        result="QN",
        settings=settings,
        trained=(0, 1),
    )


CASES = (
    _pairs(losses.pairwise_cosine, _cosine),
    _pairs(losses.pairwise_inner_product, _inner_product),
)
