"""Rows of the contract test for `quantjax.quantizers.product`."""

import functools

import jax
import numpy as np

from quantjax.quantizers import product
from tests.quantizers import oracles
from tests.quantizers.case import (
    BOOKS,
    METRICS,
    NEEDS_KEY,
    NUMBERS,
    QUERIES,
    ROW_MASK,
    TEMPERATURES,
    Case,
    K,
    M,
    X,
    normal,
)

# Vectors 1e4 long make logits of some 1e10 here, from which a compiled softmax overflows.
_COLD = ({"temperature": 0.01},)


def _tables(codebooks, queries, metric):
    pairs = zip(oracles.split(queries, M), codebooks, strict=True)
    return np.stack([oracles.distances(*pair, metric) for pair in pairs], axis=1)


def _distances(codebooks, queries, assignments, metric):
    return oracles.distances(queries, oracles.decode(codebooks, assignments), metric)


def _quantized(codebooks, x, temperature=None):
    return oracles.decode(codebooks, oracles.encode(codebooks, x))


def _quantize_surrogate(codebooks, x, at, temperature):
    one_hot = np.eye(K)[oracles.encode(*at).T]
    return oracles.moved_weights(codebooks, x, at, one_hot, temperature)


def _identity_surrogate(codebooks, x, at):
    return oracles.decode(codebooks, oracles.encode(*at)) + x - at[1]


def _fit_product(seed, x, mask, *, num_iterations):
    return product.fit_codebooks(
        jax.random.key(seed),
        x,
        num_codebooks=M,
        num_codewords=K,
        num_iterations=num_iterations,
        mask=mask,
    )


def _fit_product_oracle(seed, x, mask, num_iterations):
    keys = jax.random.split(jax.random.key(seed), M)
    parts = zip(keys, oracles.split(x, M), strict=True)
    starts = [oracles.plus_plus_of_key(key, part, mask, K) for key, part in parts]
    return _refine_oracle(starts, x, mask, num_iterations)


def _refine(codebooks, x, mask, *, num_iterations):
    return product.refine_codebooks(codebooks, x, num_iterations, mask)


def _refine_oracle(codebooks, x, mask, num_iterations):
    pairs = zip(codebooks, oracles.split(x, M), strict=True)
    return np.stack([oracles.lloyd(*pair, mask, num_iterations, 0.7) for pair in pairs])


_rows_of_product = functools.partial(Case, local="N", fixed="MdD")
CASES = (
    Case(
        "product.split",
        lambda x: product.split(x, M),
        oracle=lambda x: oracles.split(x, M),
        arguments=(X,),
        result="MNd",
        dtypes="x",
        trained=(0,),
        local="N",
    ),
    _rows_of_product(
        "product.encode", product.encode, oracles.encode, (BOOKS, X), "NM", dtypes="uint8"
    ),
    _rows_of_product(
        "product.encode (in tiles)",
        product.encode,
        oracles.encode,
        (BOOKS, ("RD", normal)),
        "RM",
        dtypes="uint8",
        gathers="u8",  # codes of the rows that fill no tile, beside those of the tiles
        local="R",
    ),
    Case(
        "product.decode",
        product.decode,
        oracle=oracles.decode,
        arguments=(BOOKS, NUMBERS),
        result="ND",
        dtypes="codebooks",
        trained=(0,),
        local="N",
    ),
    _rows_of_product(
        "product.soft_assign",
        product.soft_assign,
        oracle=oracles.soft_assign,
        arguments=(BOOKS, X),
        result="MNK",
        settings=_COLD + TEMPERATURES,
        trained=(0, 1),
        far_tolerance=1e-2,
    ),
    _rows_of_product(
        "product.soft_quantize",
        product.soft_quantize,
        oracle=lambda books, x, temperature: oracles.mix(
            oracles.soft_assign(books, x, temperature), books
        ),
        arguments=(BOOKS, X),
        result="ND",
        dtypes="x",
        settings=TEMPERATURES,
        trained=(0, 1),
        far_tolerance=1e-2,
    ),
    _rows_of_product(
        "product.quantize",
        product.quantize,
        oracle=_quantized,
        arguments=(BOOKS, X),
        result="ND",
        dtypes="x",
        settings=TEMPERATURES,
        trained=(0, 1),
        surrogate=_quantize_surrogate,
    ),
    _rows_of_product(
        "product.quantize_identity",
        product.quantize_identity,
        oracle=_quantized,
        arguments=(BOOKS, X),
        result="ND",
        dtypes="x",
        trained=(0, 1),
        surrogate=_identity_surrogate,
    ),
    _rows_of_product(
        "product.distances",
        product.distances,
        oracle=_distances,
        arguments=(BOOKS, QUERIES, NUMBERS),
        result="QN",
        settings=METRICS,
        trained=(0, 1),
        local="Q",
        fixed="dD",
    ),
    _rows_of_product(
        "product.lookup_tables",
        product.lookup_tables,
        oracle=_tables,
        arguments=(BOOKS, QUERIES),
        result="QMK",
        settings=METRICS[:2],
        trained=(0, 1),
        local="Q",
    ),
    Case(
        "product.fit_codebooks",
        _fit_product,
        oracle=_fit_product_oracle,
        arguments=(NEEDS_KEY, X, ROW_MASK),
        gathers="f32",
        result="MKd",
        settings=({"num_iterations": 0}, {"num_iterations": 3}),
        open_at_ties=True,
    ),
    Case(
        "product.refine_codebooks",
        _refine,
        oracle=_refine_oracle,
        arguments=(BOOKS, X, ROW_MASK),
        result="MKd",
        settings=({"num_iterations": 1}, {"num_iterations": 3}),
        open_at_ties=True,
        fixed="MdD",
    ),
)
