"""Rows of the contract test for `quantjax.quantizers.gumbel` and the gradient estimators."""

import functools

import jax
import numpy as np

from quantjax.quantizers import gumbel, rotation_trick, straight_through
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


def _turn(x, q):
    """The rotation that turns x into q in their plane, times the ratio of their lengths."""
    lengths = np.linalg.norm(x), np.linalg.norm(q)
    if not lengths[0]:
        return np.eye(len(x))
    if not lengths[1]:
        return np.zeros((len(x), len(x)))
    along, cosine = x / lengths[0], x @ q / lengths[0] / lengths[1]
    across = q / lengths[1] - cosine * along
    sine = np.linalg.norm(across)
    if sine < 1e-9:
        return np.eye(len(x)) * lengths[1] / lengths[0]
    plane = np.stack((along, across / sine))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    whole = np.eye(len(x)) + plane.T @ (turn - np.eye(2)) @ plane
    return whole * lengths[1] / lengths[0]


def _turned(quantized, x, at):
    rows = zip(at[0], x - at[1], at[1], strict=True)
    return np.stack([q + _turn(before, q) @ step for q, step, before in rows])


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
    Case(
        "straight_through.rotation_trick",
        rotation_trick,
        oracle=lambda quantized, x: quantized,
        arguments=(X, X),
        result="ND",
        dtypes="quantized",
        trained=(0, 1),
        surrogate=_turned,
        local="N",
    ),
)
