"""Quantizers: encode embeddings to codes, decode codes, and quantize differentiably in training.

For any input dtype, results and arithmetic are float32: assignments, statistics and sums over
codebooks. Two kinds of function are exceptions. Functions that only copy (`product.split`,
`product.decode`, `additive.block_diagonal`) keep the dtype of their input. Functions that replace
an embedding in training (`product.quantize`, `binary.sign` and others) round their result to the
embedding's dtype at the end.

A row whose mask is False may hold any value, even NaN, and does not change the result. NaN and
infinity anywhere else raise a ValueError that names the array and the row. Under `jit`, `vmap` or
`grad` values cannot be checked, and such numbers pass through.

Each module is loaded on first use: a loss that takes a sign loads no k-means.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Loaded now: importing its module would set the name to the module and not to the function.
from quantjax.quantizers.straight_through import rotation_trick, straight_through

if TYPE_CHECKING:
    from quantjax.quantizers import (
        additive,
        binary,
        codecs,
        ema,
        gumbel,
        kmeans,
        neural_residual,
        neural_training,
        packing,
        product,
        rotation,
        scalar,
    )
    from quantjax.quantizers.codecs import (
        BinaryCodec,
        ClassCodec,
        Codec,
        FloatCodec,
        ProductCodec,
        ResidualCodec,
    )
    from quantjax.quantizers.neural_residual import NeuralResidualCodec

__all__ = [
    "BinaryCodec", "ClassCodec", "Codec", "FloatCodec", "NeuralResidualCodec", "ProductCodec",
    "ResidualCodec", "additive", "binary", "codecs", "ema", "gumbel", "kmeans", "neural_residual",
    "neural_training", "packing", "product", "rotation", "rotation_trick", "scalar",
    "straight_through",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'quantjax.quantizers' has no attribute {name!r}")
    if name.endswith("Codec"):
        module = "neural_residual" if name == "NeuralResidualCodec" else "codecs"
        return vars(importlib.import_module(f"quantjax.quantizers.{module}"))[name]
    return importlib.import_module(f"quantjax.quantizers.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
