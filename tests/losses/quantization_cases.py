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


def _rows(function, oracle):
    return Case(function, oracle=oracle, arguments=(("BD", normal),), result="B")


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
)
