"""Rows of the contract test for `quantjax.quantizers.gumbel` and the straight-through estimator."""

import functools

import jax
import numpy as np

from quantjax.quantizers import gumbel, straight_through
from tests.quantizers import oracles
from tests.quantizers.case import BOOKS, NEEDS_KEY, SIZES, TEMPERATURES, Case, K, M, X


def _gumbel_noise(seed):
    return np.float64(jax.random.gumbel(jax.random.key(seed), (M, SIZES["N"], K), np.float32))


def _gumbel_assign(seed, codebooks, x, temperature):
    return oracles.soft_assign(codebooks, x, temperature, _gumbel_noise(seed))


def _gumbel_quantize(seed, codebooks, x, temperature):
    drawn = np.argmax(_gumbel_assign(seed, codebooks, x, temperature), axis=-1)
    return oracles.decode(codebooks, drawn.T)


def _gumbel_surrogate(seed, codebooks, x, at, temperature):
    noise = _gumbel_noise(seed)
    one_hot = np.eye(K)[np.argmax(_gumbel_assign(*at, temperature), axis=-1)]
    return oracles.moved_weights(codebooks, x, at[1:], one_hot, temperature, noise)


def _keyed(function):
    """Takes a seed for the key, which float64 oracles can be handed, too."""

    def call(seed, codebooks, x, *, temperature):
        return function(jax.random.key(seed), codebooks, x, temperature=temperature)

    return call


_rows_of_product = functools.partial(Case, fixed="MdD")
CASES = (
    _rows_of_product(
        "gumbel.gumbel_assign",
        _keyed(gumbel.gumbel_assign),
        oracle=_gumbel_assign,
        arguments=(NEEDS_KEY, BOOKS, X),
        result="MNK",
        settings=TEMPERATURES,
        trained=(1, 2),
        far_tolerance=1e-2,
    ),
    _rows_of_product(
        "gumbel.gumbel_quantize",
        _keyed(gumbel.gumbel_quantize),
        oracle=_gumbel_quantize,
        arguments=(NEEDS_KEY, BOOKS, X),
        result="ND",
        dtypes="x",
        settings=TEMPERATURES,
        trained=(1, 2),
        surrogate=_gumbel_surrogate,
    ),
    Case(
        "straight_through.straight_through",
        straight_through,
        oracle=lambda hard, soft: hard,
        arguments=(X, X),
        result="ND",
        dtypes="hard",
        trained=(0, 1),
        surrogate=lambda hard, soft, at: at[0] + soft - at[1],
        local="N",
    ),
)
