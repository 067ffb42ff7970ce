"""Rows of the contract test for `quantjax.losses.quantization`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import Case, normal


def _quantization_error(x, quantized):
    pairs = zip(x, quantized, strict=True)
    return [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs]


def _each_row(of_gap, reduce):
    def oracle(x):
        gaps = [[a - (1 if a >= 0 else -1) for a in row] for row in x]
        return np.array([reduce([of_gap(gap) for gap in row]) for row in gaps])

    return oracle


def _cauchy(x, gamma):
    result = []
    for row in x:
        length = math.sqrt(sum(a * a for a in row))
        cosine = sum(map(abs, row)) / length / math.sqrt(len(row)) if length else 0.0
        result.append(math.log(1 + len(row) / 2 * (1 - cosine) / gamma))
    return np.array(result)


def _log_cosh(y):
    return abs(y) + math.log((1 + math.exp(-2 * abs(y))) / 2)


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


def _rows(function, oracle):
    return Case(function, oracle=oracle, arguments=(("BD", normal),), result="B")


def _of_batch(function, oracle, result):
    return Case(function, oracle=oracle, arguments=(("BD", normal),), result=result, local="")


def _soft(function, oracle, result):
    # D is K here. Devices share the codebooks out; shared rows are in test_quantization.py.
    return Case(function, oracle=oracle, arguments=(("MND", _simplex),), result=result)


CASES = (
    Case(
        losses.quantization_error,
        oracle=_quantization_error,
        arguments=(("BD", normal), ("BD", normal)),
        result="B",
        trained=(0, 1),
    ),
    _rows(losses.absolute_sign_error, _each_row(abs, sum)),
    _rows(losses.cauchy_sign_error, _cauchy)._replace(settings=({"gamma": 3.0}, {"gamma": 0.5})),
    _rows(losses.sign_error, _each_row(lambda gap: gap**2, sum)),
    _rows(losses.log_cosh_sign, _each_row(_log_cosh, sum)),
    _rows(losses.cubed_sign_error, _each_row(lambda gap: abs(gap) ** 3, np.mean)),
    _of_batch(losses.bit_balance, _bit_balance, "D"),
    _of_batch(losses.bit_independence, _bit_independence, "DD"),
    _soft(losses.usage_entropy, _usage_entropy, "M"),
    _soft(losses.code_entropy, _code_entropy, "MN"),
    _soft(losses.gini_batch, _gini_batch, "M"),
    _soft(losses.gini_sample, _gini_sample, "MN"),
)
