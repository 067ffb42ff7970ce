"""Rows of the contract test for `quantjax.quantizers.codecs`: fields are the first arguments."""

import functools

import numpy as np

from quantjax.quantizers import BinaryCodec, FloatCodec, ProductCodec, ResidualCodec
from tests.quantizers import oracles
from tests.quantizers.case import (
    BOOKS,
    METRICS,
    QUERIES,
    SIZES,
    WIDE,
    WIDTH,
    Case,
    K,
    M,
    X,
    below,
    float_bytes,
    normal,
    orthonormal,
)


def _due_bits(offset, projection, x):
    return np.uint8((x - offset) @ projection >= 0)


def _measured(queries, decoded, metric):
    return oracles.distances(queries, decoded, metric)


def _product_decoded(codebooks, rotation, codes):
    return oracles.decode(codebooks, oracles.unpacked(codes, 2, M)) @ rotation.T


def _residual_decoded(codebooks, codes):
    return oracles.additive_decode(codebooks, oracles.unpacked(codes, 2, M))


def _floats(codes):
    return np.float64(np.ascontiguousarray(codes).view("<f4"))


_TURN, _PROJECTION, _OFFSET = ("DD", orthonormal), ("DB", orthonormal), ("D", normal)
_CODES, _BIT_CODES = ("NP", below(K**M)), ("NP", below(2 ** SIZES["B"]))
_FLOATS = ("NF", float_bytes)
_codec = functools.partial(Case, local="N", fixed="DPFB")
_measure = functools.partial(_codec, result="QN", local="Q", settings=METRICS)
CASES = (
    _codec(
        "ProductCodec.encode",
        lambda codebooks, rotation, x: ProductCodec(codebooks, rotation).encode(x),
        oracle=lambda codebooks, rotation, x: oracles.packed(
            oracles.encode(codebooks, x @ rotation), 2
        ),
        arguments=(BOOKS, _TURN, X),
        result="NP",
        dtypes="uint8",
        refused=(1, 2),
    ),
    _codec(
        "ProductCodec.decode",
        lambda codebooks, rotation, codes: ProductCodec(codebooks, rotation).decode(codes),
        oracle=_product_decoded,
        arguments=(BOOKS, _TURN, _CODES),
        result="ND",
        refused=(1, 2),
    ),
    _measure(
        "ProductCodec.distances",
        lambda codebooks, rotation, queries, codes, *, metric: ProductCodec(
            codebooks, rotation, metric
        ).distances(queries, codes),
        # Queries are turned, not items: in bfloat16 a rotation is not quite orthogonal.
        oracle=lambda codebooks, rotation, queries, codes, metric: _measured(
            queries @ rotation, _product_decoded(codebooks, np.eye(M * WIDTH), codes), metric
        ),
        arguments=(BOOKS, _TURN, QUERIES, _CODES),
        refused=(1, 2, 3),
    ),
    _codec(
        "ProductCodec.assignments",
        lambda codebooks, codes: ProductCodec(codebooks).assignments(codes),
        oracle=lambda codebooks, codes: oracles.unpacked(codes, 2, M),
        arguments=(BOOKS, _CODES),
        result="NM",
        dtypes="uint8",
        refused=(1,),
    ),
    _codec(
        "BinaryCodec.encode",
        lambda offset, projection, x: BinaryCodec(SIZES["B"], offset, projection).encode(x),
        oracle=lambda offset, projection, x: oracles.packed(_due_bits(offset, projection, x), 1),
        arguments=(_OFFSET, _PROJECTION, X),
        result="NP",
        dtypes="uint8",
        refused=(0, 1, 2),
    ),
    _codec(
        "BinaryCodec.decode",
        lambda offset, projection, packed: BinaryCodec(SIZES["B"], offset, projection).decode(
            packed
        ),
        oracle=lambda offset, projection, packed: (
            offset + (2 * oracles.unpacked(packed, 1, SIZES["B"]) - 1) @ projection.T
        ),
        arguments=(_OFFSET, _PROJECTION, _BIT_CODES),
        result="ND",
        refused=(0, 1, 2),
    ),
    _codec(
        "BinaryCodec.distances",
        lambda offset, projection, queries, codes: BinaryCodec(
            SIZES["B"], offset, projection
        ).distances(queries, codes),
        oracle=lambda offset, projection, queries, codes: oracles.hamming(
            oracles.packed(_due_bits(offset, projection, queries), 1), codes
        ),
        arguments=(_OFFSET, _PROJECTION, QUERIES, _BIT_CODES),
        result="QN",
        dtypes="int32",
        local="Q",
        refused=(0, 1, 2, 3),
    ),
    _codec(
        "ResidualCodec.encode",
        lambda codebooks, x, *, beam_width: ResidualCodec(codebooks, beam_width=beam_width).encode(
            x
        ),
        oracle=lambda codebooks, x, beam_width: oracles.packed(
            oracles.beam_encode(codebooks, x, beam_width), 2
        ),
        arguments=(WIDE, X),
        gathers="f32",
        result="NP",
        dtypes="uint8",
        settings=({"beam_width": 1}, {"beam_width": 3}),
        refused=(1,),
    ),
    _codec(
        "ResidualCodec.decode",
        lambda codebooks, codes: ResidualCodec(codebooks).decode(codes),
        oracle=_residual_decoded,
        arguments=(WIDE, _CODES),
        result="ND",
        refused=(1,),
    ),
    _measure(
        "ResidualCodec.distances",
        lambda codebooks, queries, codes, *, metric: ResidualCodec(codebooks, metric).distances(
            queries, codes
        ),
        oracle=lambda codebooks, queries, codes, metric: _measured(
            queries, _residual_decoded(codebooks, codes), metric
        ),
        arguments=(WIDE, QUERIES, _CODES),
        refused=(1, 2),
    ),
    _codec(
        "ResidualCodec.assignments",
        lambda codebooks, codes: ResidualCodec(codebooks).assignments(codes),
        oracle=lambda codebooks, codes: oracles.unpacked(codes, 2, M),
        arguments=(WIDE, _CODES),
        result="NM",
        dtypes="uint8",
        refused=(1,),
    ),
    _codec(
        "FloatCodec.encode",
        lambda x: FloatCodec(SIZES["D"]).encode(x),
        oracle=lambda x: np.ascontiguousarray(x.astype("<f4")).view(np.uint8),
        arguments=(X,),
        result="NF",
        dtypes="uint8",
    ),
    _codec(
        "FloatCodec.decode",
        lambda codes: FloatCodec(SIZES["D"]).decode(codes),
        oracle=_floats,
        arguments=(_FLOATS,),
        result="ND",
    ),
    _measure(
        "FloatCodec.distances",
        lambda queries, codes, *, metric: FloatCodec(SIZES["D"], metric).distances(queries, codes),
        oracle=lambda queries, codes, metric: _measured(queries, _floats(codes), metric),
        arguments=(QUERIES, _FLOATS),
        trained=(0,),
    ),
)
