"""Rows of the contract test for `quantjax.quantizers.binary`."""

import functools

import numpy as np

from quantjax.quantizers import binary
from tests.quantizers import oracles
from tests.quantizers.case import ROW_MASK, SIZES, Case, below, normal


def _clipped_surrogate(x, at):
    return oracles.signs(at) + np.clip(x, -1, 1) - np.clip(at, -1, 1)


def _identity_of(hard):
    return lambda x, at: hard(at[0]) + x - at[0]


_BITS = ("NT", normal)
_signs_case = functools.partial(
    Case, arguments=(_BITS,), result="NT", dtypes="x", trained=(0,), local="N"
)
CASES = (
    _signs_case(
        "binary.sign",
        binary.sign,
        oracle=oracles.signs,
        surrogate=_identity_of(oracles.signs),
        refused=(),
    ),
    _signs_case(
        "binary.clipped_sign",
        binary.clipped_sign,
        oracle=oracles.signs,
        surrogate=lambda x, at: _clipped_surrogate(x, at[0]),
        refused=(),
    ),
    _signs_case(
        "binary.median_sign",
        binary.median_sign,
        oracle=oracles.halves,
        surrogate=_identity_of(oracles.halves),
        gathers="f32 s32",
        local="",
    ),
    Case(
        "binary.median_thresholds",
        binary.median_thresholds,
        oracle=lambda x: np.median(x, axis=0),
        arguments=(_BITS,),
        gathers="f32",
        result="T",
    ),
    Case(
        "binary.median_thresholds (masked)",
        binary.median_thresholds,
        oracle=lambda x, mask: np.median(x[mask], axis=0),
        arguments=(_BITS, ROW_MASK),
        gathers="f32",
        result="T",
    ),
    Case(
        "binary.pack",
        binary.pack,
        oracle=lambda signs: oracles.packed(np.uint8(signs >= 0), 1),
        arguments=(("NT", normal),),
        result="NC",
        dtypes="uint8",
        local="N",
    ),
    Case(
        "binary.unpack",
        lambda packed: binary.unpack(packed, SIZES["T"]),
        oracle=lambda packed: 2 * oracles.unpacked(packed, 1, SIZES["T"]) - 1,
        arguments=(("NC", below(256)),),
        result="NT",
        local="N",
        fixed="C",
    ),
    Case(
        "binary.hamming_distances",
        binary.hamming_distances,
        oracle=oracles.hamming,
        arguments=(("QC", below(256)), ("NC", below(256))),
        result="QN",
        dtypes="int32",
        local="Q",
    ),
)
