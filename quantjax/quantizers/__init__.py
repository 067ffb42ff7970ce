"""Quantizers: encode embeddings to codes, decode codes, and quantize differentiably in training.

For any input dtype, results and arithmetic are float32: assignments, statistics and sums over
codebooks. Two kinds of function are exceptions. Functions that only copy (`product.split`,
`product.decode`, `additive.block_diagonal`) keep the dtype of their input. Functions that replace
an embedding in training (`product.quantize`, `binary.sign` and others) round their result to the
embedding's dtype at the end.

A row whose mask is False may hold any value, even NaN, and does not change the result. NaN and
infinity anywhere else raise a ValueError that names the array and the row. Under `jit`, `vmap` or
`grad` values cannot be checked, and such numbers pass through.
"""

from quantjax.quantizers import (
    additive,
    binary,
    class_codec,
    codecs,
    ema,
    gumbel,
    kmeans,
    packing,
    product,
    residual,
    rotation,
    usage,
)
from quantjax.quantizers.class_codec import ClassCodec
from quantjax.quantizers.codecs import (
    BinaryCodec,
    Codec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.quantizers.straight_through import straight_through

__all__ = [
    "BinaryCodec",
    "ClassCodec",
    "Codec",
    "FloatCodec",
    "ProductCodec",
    "ResidualCodec",
    "additive",
    "binary",
    "class_codec",
    "codecs",
    "ema",
    "gumbel",
    "kmeans",
    "packing",
    "product",
    "residual",
    "rotation",
    "straight_through",
    "usage",
]
