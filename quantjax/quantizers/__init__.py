"""Quantizers: from embeddings to codes and back, and what trains in between.

Whatever dtype comes in, results are float32 and so is the arithmetic: assignments, statistics and
sums over codebooks. There are two exceptions. What only copies (`product.split`, `product.decode`,
`additive.block_diagonal`) keeps the dtype of what it copies; what takes an embedding's place in
training (`product.quantize`, `binary.sign` and their like) is rounded to the embedding's at the
end.

A row whose mask is False may hold anything, NaN too, and changes no bit of a result. NaN and
infinity anywhere else are a ValueError that names the array and the row. Under `jit`, `vmap` or
`grad` no value can be seen, and such numbers pass through.
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
