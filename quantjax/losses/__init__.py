"""Losses: one published equation, one pure function; the caller reduces."""

from quantjax.losses.pairwise import pairwise_cosine, pairwise_inner_product
from quantjax.losses.quantization import quantization_error

__all__ = ["pairwise_cosine", "pairwise_inner_product", "quantization_error"]
