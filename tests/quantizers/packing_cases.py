"""Rows of the contract test for `quantjax.quantizers.packing`."""

from quantjax.quantizers import packing
from tests.quantizers import oracles
from tests.quantizers.case import NUMBERS, Case, M, below

CASES = (
    Case(
        "packing.pack",
        lambda assignments, *, width: packing.pack(assignments, width),
        oracle=oracles.packed,
        arguments=(NUMBERS,),
        result="NP",
        dtypes="uint8",
        settings=({"width": 2}, {"width": 3}),
        local="N",
    ),
    Case(
        "packing.unpack",
        lambda codes, *, width: packing.unpack(codes, width, M),
        oracle=lambda codes, width: oracles.unpacked(codes, width, M),
        arguments=(("NP", below(256)),),
        result="NM",
        dtypes="uint8",
        settings=({"width": 2}, {"width": 3}),
        local="N",
        fixed="P",
    ),
)
