"""Rows of the contract test for `quantjax.quantizers.scalar`."""

import math

import numpy as np

from quantjax.quantizers import scalar
from tests.quantizers.case import Case, X

LEVELS = (3, 4, 5, 8, 15, 256)


def _bounded(x, levels):
    result = np.zeros(x.shape)
    for place, number in np.ndenumerate(x):
        count = levels[place[1]]
        half = 0.999 * (count - 1) / 2
        offset = 0.0 if count % 2 else 0.5
        result[place] = half * math.tanh(number + math.atanh(offset / half)) - offset
    return result


def _surrogate(x, at, levels):
    rounded = np.rint(_bounded(at[0], levels))
    moved = rounded + _bounded(x, levels) - _bounded(at[0], levels)
    return moved / [count // 2 for count in levels]


CASES = (
    Case(
        "scalar.finite_scalar",
        scalar.finite_scalar,
        oracle=lambda x, levels: _surrogate(x, (x,), levels),
        arguments=(X,),
        result="ND",
        dtypes="x",
        settings=({"levels": LEVELS}, {"levels": LEVELS[::-1]}),
        trained=(0,),
        surrogate=_surrogate,
        local="N",
        fixed="D",
    ),
)
