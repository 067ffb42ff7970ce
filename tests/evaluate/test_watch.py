"""What is told of a method while it trains."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate
from quantjax.quantizers import BinaryCodec, FloatCodec, ProductCodec, ResidualCodec, packing


@pytest.mark.parametrize("make", [ProductCodec, ResidualCodec])
def test_perplexity_and_dead_codewords_are_counted_over_codebooks(make):
    codec = make(jnp.zeros((2, 4, 3)))
    # The first codebook uses all four alike, the second but one.
    assignments = jnp.asarray([[0, 1], [1, 1], [2, 1], [3, 1]], jnp.uint8)
    found = evaluate.usage_of(codec, np.asarray(packing.pack(assignments, 2)))
    assert found["codebook_perplexity"] == pytest.approx((4 + 1) / 2)
    assert found["dead_codewords"] == 3


def test_entropy_of_bits_is_1_where_they_are_balanced_and_0_where_they_are_stuck():
    codes = np.asarray([[0b01], [0b11], [0b00], [0b10]], np.uint8)
    assert evaluate.usage_of(BinaryCodec(2), codes) == {"bit_entropy": 1.0}
    stuck = np.asarray([[0b01], [0b11]], np.uint8)
    assert evaluate.usage_of(BinaryCodec(2), stuck) == {"bit_entropy": 0.5}


def test_of_floats_there_is_nothing_to_tell():
    assert evaluate.usage_of(FloatCodec(3), np.zeros((2, 12), np.uint8)) == {}
