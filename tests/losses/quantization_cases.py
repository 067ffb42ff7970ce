"""Rows of the contract test for `quantjax.losses.quantization`."""

from quantjax import losses
from tests.losses.case import Case, normal


def _quantization_error(x, quantized):
    pairs = zip(x, quantized, strict=True)
    return [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs]


CASES = (
    Case(
        losses.quantization_error,
        oracle=_quantization_error,
        arguments=(("BD", normal), ("BD", normal)),
        result="B",
        trained=(0, 1),
    ),
)
