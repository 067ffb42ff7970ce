"""Quantizers: from embeddings to codes and back, and what trains in between."""

from quantjax.quantizers import codecs, kmeans, product
from quantjax.quantizers.codecs import Codec, FloatCodec, ProductCodec
from quantjax.quantizers.straight_through import straight_through

__all__ = [
    "Codec",
    "FloatCodec",
    "ProductCodec",
    "codecs",
    "kmeans",
    "product",
    "straight_through",
]
