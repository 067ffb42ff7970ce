"""Rows of the contract test for residual quantization, in `quantjax.quantizers.additive`."""

import jax
import numpy as np

from quantjax.quantizers import additive
from tests.quantizers import oracles
from tests.quantizers.case import NEEDS_KEY, ROW_MASK, WIDE, Case, K, M, X


def _fit_residual(seed, x, mask, *, num_iterations):
    return additive.fit_codebooks(
        jax.random.key(seed),
        x,
        num_codebooks=M,
        num_codewords=K,
        num_iterations=num_iterations,
        mask=mask,
    )


def _fit_residual_oracle(seed, x, mask, num_iterations):
    books = []
    for key in jax.random.split(jax.random.key(seed), M):
        start = oracles.plus_plus_of_key(key, x, mask, K)
        books.append(oracles.lloyd(start, x, mask, num_iterations))
        x = x - books[-1][oracles.encode(books[-1][None], x)[:, 0]]
    return np.stack(books)


CASES = (
    Case(
        "additive.encode",
        additive.encode,
        oracle=oracles.beam_encode,
        arguments=(WIDE, X),
        gathers="f32",
        result="NM",
        dtypes="uint8",
        settings=({"beam_width": 1}, {"beam_width": 3}),
        local="N",
    ),
    Case(
        "additive.fit_codebooks",
        _fit_residual,
        oracle=_fit_residual_oracle,
        arguments=(NEEDS_KEY, X, ROW_MASK),
        gathers="f32",
        result="MKD",
        settings=({"num_iterations": 0}, {"num_iterations": 3}),
        open_at_ties=True,
    ),
)
