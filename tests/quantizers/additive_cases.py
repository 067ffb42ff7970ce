"""Rows of the contract test for `quantjax.quantizers.additive`."""

import jax
import numpy as np

from quantjax.quantizers import additive
from tests.quantizers import oracles
from tests.quantizers.case import (
    BOOKS,
    METRICS,
    NEEDS_KEY,
    NUMBERS,
    QUERIES,
    WIDE,
    WIDTH,
    Case,
    K,
    M,
    X,
)


def _block_diagonal(codebooks):
    wide = np.zeros((M, K, M * WIDTH))
    for m, book in enumerate(codebooks):
        wide[m, :, m * WIDTH : (m + 1) * WIDTH] = book
    return wide


def _icm(seed, codebooks, x, assignments, *, num_sweeps):
    key = jax.random.key(seed)
    return additive.icm_encode(key, codebooks, x, assignments, num_sweeps=num_sweeps)


def _icm_oracle(seed, codebooks, x, assignments, num_sweeps):
    numbers = assignments.copy()
    for key in jax.random.split(jax.random.key(seed), num_sweeps):
        for m in np.asarray(jax.random.permutation(key, M)):
            for row, target in zip(numbers, x, strict=True):
                others = sum(codebooks[o][row[o]] for o in range(M) if o != m)
                row[m] = oracles.encode(codebooks[m : m + 1], [target - others])[0, 0]
    return numbers


CASES = (
    Case(
        "additive.block_diagonal",
        additive.block_diagonal,
        oracle=_block_diagonal,
        arguments=(BOOKS,),
        result="MKD",
        dtypes="codebooks",
        trained=(0,),
    ),
    Case(
        "additive.decode",
        additive.decode,
        oracle=oracles.additive_decode,
        arguments=(WIDE, NUMBERS),
        result="ND",
        trained=(0,),
        local="N",
    ),
    Case(
        "additive.squared_norms",
        additive.squared_norms,
        oracle=lambda *both: np.sum(oracles.additive_decode(*both) ** 2, axis=1),
        arguments=(WIDE, NUMBERS),
        result="N",
        trained=(0,),
        local="N",
    ),
    Case(
        "additive.distances",
        additive.distances,
        oracle=lambda books, queries, numbers, metric: oracles.distances(
            queries, oracles.additive_decode(books, numbers), metric
        ),
        arguments=(WIDE, QUERIES, NUMBERS),
        result="QN",
        settings=METRICS,
        trained=(0, 1),
        local="Q",
    ),
    Case(
        "additive.icm_encode",
        _icm,
        oracle=_icm_oracle,
        arguments=(NEEDS_KEY, WIDE, X, NUMBERS),
        result="NM",
        dtypes="uint8",
        settings=({"num_sweeps": 1}, {"num_sweeps": 3}),
        local="N",
    ),
    Case(
        "additive.ridge_update",
        additive.ridge_update,
        oracle=oracles.ridge,
        arguments=(WIDE, X, NUMBERS),
        result="MKD",
        settings=({"ridge": 0.1}, {"ridge": 10.0}),
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
)
