"""Rows of the contract test for `quantjax.losses.many_positives`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, coin, normal


def _cosine(a, b):
    lengths = math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths if lengths else 0.0


def _each_query(equation):
    """Applies an equation to the cosines of each query's positives and of its negatives."""

    def oracle(queries, keys, positives, ignored=None, **options):
        result = []
        for i, query in enumerate(queries):
            own, others = [], []
            for j, key in enumerate(keys):
                if ignored is None or not ignored[i, j]:
                    (own if positives[i, j] else others).append(_cosine(query, key))
            result.append(equation(own, others, **options))
        return np.array(result)

    return oracle


def _supervised_contrastive(own, others, temperature):
    total = sum(math.exp(s / temperature) for s in own + others)
    surprises = [-math.log(math.exp(s / temperature) / total) for s in own]
    return sum(surprises) / len(own) if own else 0.0


def _multi_similarity(own, others, alpha=2.0, beta=50.0, base=1.0, epsilon=0.1):
    pull = [s for s in own if any(s < other + epsilon for other in others)]
    push = [s for s in others if any(s > other - epsilon for other in own)]
    pull = math.log(1 + sum(math.exp(-alpha * (s - base)) for s in pull)) / alpha
    return pull + math.log(1 + sum(math.exp(beta * (s - base)) for s in push)) / beta


def _both(function, equation, settings):
    pairs = Case(
        function,
        oracle=_each_query(equation),
        arguments=(("QD", normal), ("ND", normal), ("QN", coin)),
        result="Q",
        settings=settings,
        trained=(0, 1),
    )
    ignoring = (*pairs.arguments, ("QN", coin))
    return pairs, pairs._replace(arguments=ignoring, remark="that ignores columns")


CASES = (
    *_both(
        losses.supervised_contrastive,
        _supervised_contrastive,
        ({"temperature": 0.5}, {"temperature": 0.1}),
    ),
    *_both(
        losses.multi_similarity,
        _multi_similarity,
        ({}, {"alpha": 3.0, "beta": 10.0, "base": 0.5, "epsilon": 0.02}),
    ),
)
