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


def _cosine_of(q, d):
    lengths = math.sqrt(sum(a * a for a in q) * sum(b * b for b in d))
    return sum(a * b for a, b in zip(q, d, strict=True)) / lengths if lengths else 0.0


def _cosine(q, d, similar):
    return ((1 if similar else -1) - _cosine_of(q, d)) ** 2


def _cosine_match(queries, database, query_features, database_features):
    result = np.zeros((len(queries), len(database)))
    for i, j in np.ndindex(result.shape):
        due = _cosine_of(query_features[i], database_features[j])
        result[i, j] = (_cosine_of(queries[i], database[j]) - due) ** 2
    return result


def _inner_product(q, d, similar, scale=None):
    inner = sum(a * b for a, b in zip(q, d, strict=True))
    return ((1 if similar else -1) - inner * (scale or 1 / len(q))) ** 2


def _likelihood(q, d, similar, scale=0.5):
    t = scale * sum(a * b for a, b in zip(q, d, strict=True))
    return np.logaddexp(0, t) - (t if similar else 0)


def _contrastive(q, d, similar, margin):
    distance = sum((a - b) ** 2 for a, b in zip(q, d, strict=True))
    return distance / 2 if similar else max(margin - distance, 0) / 2


def _cauchy(q, d, similar, gamma):
    distance = len(q) / 2 * max(1 - _cosine_of(q, d), 1e-6)
    return (math.log(distance / gamma) if similar else 0) + math.log(1 + gamma / distance)


def _weights(similar, jaccard=None, *, similar_fraction):
    confidence = np.ones(similar.shape) if jaccard is None else jaccard
    result = np.zeros(similar.shape)
    for pair in np.ndindex(similar.shape):
        if similar[pair]:
            result[pair] = confidence[pair] / similar_fraction
        else:
            result[pair] = 1 / (1 - similar_fraction)
    return result


def _share(rng, shape):
    return np.float64(np.float32(rng.uniform(size=shape)))


def _pairs(function, equation, settings=({},)):
    return Case(
        function,
        oracle=_each_pair(equation),
        arguments=(("QD", normal), ("ND", normal), ("QN", coin)),
        result="QN",
        settings=settings,
        trained=(0, 1),
    )


def _weighed(*jaccard, remark):
    return Case(
        losses.pair_weights,
        oracle=_weights,
        arguments=(("QN", coin), *jaccard),
        result="QN",
        settings=({"similar_fraction": 0.3}, {"similar_fraction": 0.625}),
        trained=(),
        remark=remark,
    )


CASES = (
    _pairs(losses.pairwise_cosine, _cosine),
    _pairs(losses.pairwise_inner_product, _inner_product, ({}, {"scale": 0.3})),
    _pairs(losses.pairwise_likelihood, _likelihood, ({}, {"scale": 1.0})),
    _pairs(losses.pairwise_contrastive, _contrastive, ({"margin": 9.0}, {"margin": 14.0})),
    _pairs(losses.pairwise_cauchy, _cauchy, ({"gamma": 3.0}, {"gamma": 20.0})),
    Case(
        losses.pairwise_cosine_match,
        oracle=_cosine_match,
        arguments=(("QD", normal), ("ND", normal), ("QL", normal), ("NL", normal)),
        result="QN",
        trained=(0, 1),
    ),
    _weighed(remark="of one label each"),
    _weighed(("QN", _share), remark="of several labels each"),
)
