"""Quantizers: from embeddings to codes and back, and what trains in between."""

from quantjax.quantizers import (
    additive,
    binary,
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
    "Codec",
    "FloatCodec",
    "ProductCodec",
    "ResidualCodec",
    "additive",
    "binary",
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
