"""Rows of the contract test for the usage statistics of `quantjax.quantizers.ema`."""

import functools

import numpy as np

from quantjax.quantizers import ema
from tests.quantizers import oracles
from tests.quantizers.case import BOOKS, ROW_MASK, Case, X, counts

_usage_case = functools.partial(
    Case, function=ema.usage, result="M,M,M,MK", dtypes="float32,int32,float32,int32", fixed="MdD"
)
CASES = (
    _usage_case("ema.usage", oracle=oracles.usage, arguments=(BOOKS, X)),
    _usage_case(
        "ema.usage (masked)",
        oracle=lambda codebooks, x, mask: oracles.usage(codebooks, x[mask]),
        arguments=(BOOKS, X, ROW_MASK),
    ),
    Case(
        "ema.perplexity",
        ema.perplexity,
        refused=(),
        oracle=lambda counts: [
            np.prod([(sum(row) / n) ** (n / sum(row)) for n in row if n]) for row in counts
        ],
        arguments=(("MK", counts),),
        result="M",
    ),
)
