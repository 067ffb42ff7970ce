"""Rows of the contract test for `ClassCodec`: the D scores are of classes."""

import functools

import numpy as np

from quantjax.quantizers import ClassCodec
from tests.quantizers import oracles
from tests.quantizers.case import QUERIES, SIZES, Case, X, below

_CODEC = ClassCodec(SIZES["D"])
_CODES = ("NP", below(SIZES["D"]))


def _class_ids(codes):
    return np.squeeze(oracles.unpacked(codes, 3, 1), axis=1)


def _surprise(queries, codes):
    below_best = queries - queries.max(axis=1, keepdims=True)
    total = np.exp(below_best).sum(axis=1, keepdims=True)
    return (np.log(total) - below_best)[:, _class_ids(codes)]


_codec = functools.partial(Case, local="N", fixed="DP")
CASES = (
    _codec(
        "ClassCodec.encode",
        lambda x: _CODEC.encode(x),
        oracle=lambda x: oracles.packed(np.argmax(x, axis=1)[:, None], 3),
        arguments=(X,),
        result="NP",
        dtypes="uint8",
    ),
    _codec(
        "ClassCodec.decode",
        lambda codes: _CODEC.decode(codes),
        oracle=lambda codes: 128 * np.eye(SIZES["D"])[_class_ids(codes)],
        arguments=(_CODES,),
        result="ND",
    ),
    _codec(
        "ClassCodec.distances",
        lambda queries, codes: _CODEC.distances(queries, codes),
        oracle=_surprise,
        arguments=(QUERIES, _CODES),
        result="QN",
        local="Q",
    ),
    _codec(
        "ClassCodec.class_ids",
        lambda codes: _CODEC.class_ids(codes),
        oracle=lambda codes: np.int32(_class_ids(codes)),
        arguments=(_CODES,),
        result="N",
        dtypes="int32",
    ),
)
