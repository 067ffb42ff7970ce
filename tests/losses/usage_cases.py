"""Rows of the contract test for `quantjax.losses.usage`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, normal


def _bit_balance(x):
    return [(sum(row[k] for row in x) / len(x)) ** 2 for k in range(x.shape[1])]


def _bit_independence(x):
    size = x.shape[1]
    result = np.zeros((size, size))
    for k in range(size):
        for other in range(size):
            moment = sum(row[k] * row[other] for row in x) / len(x)
            result[k, other] = (moment - (k == other)) ** 2
    return result


def _simplex(rng, shape):
    powers = np.exp(rng.normal(size=shape))
    return np.float64(np.float32(powers / powers.sum(-1, keepdims=True)))


def _usage(codebook):
    return [sum(row[k] for row in codebook) / len(codebook) for k in range(codebook.shape[1])]


def _entropy(p):
    return -sum(value * math.log(value) for value in p if value > 0)


def _usage_entropy(soft):
    return [math.log(soft.shape[2]) - _entropy(_usage(codebook)) for codebook in soft]


def _code_entropy(soft):
    return [[_entropy(row) for row in codebook] for codebook in soft]


def _gini_batch(soft):
    return [sum(p**2 for p in _usage(codebook)) for codebook in soft]


def _gini_sample(soft):
    return [[-sum(p**2 for p in row) for row in codebook] for codebook in soft]


def _of_batch(function, oracle, result):
    return Case(function, oracle=oracle, arguments=(("BD", normal),), result=result, local="")


def _soft(function, oracle, result):
    # D is K here. Devices share the codebooks out; shared rows are in test_usage.py.
    return Case(function, oracle=oracle, arguments=(("MND", _simplex),), result=result)


CASES = (
    _of_batch(losses.bit_balance, _bit_balance, "D"),
    _of_batch(losses.bit_independence, _bit_independence, "DD"),
    _soft(losses.usage_entropy, _usage_entropy, "M"),
    _soft(losses.code_entropy, _code_entropy, "MN"),
    _soft(losses.gini_batch, _gini_batch, "M"),
    _soft(losses.gini_sample, _gini_sample, "MN"),
)
