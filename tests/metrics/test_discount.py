import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.metrics.rank_sums import discount_sums

OFFSETS = [0, 1, 5, 50, 1000, 60_000, 1_000_000]
LENGTHS = [1, 2, 8, 16, 17, 18, 24, 40, 1000, 60_000, 1_000_000]


def grid():
    offset, length = np.meshgrid(OFFSETS, LENGTHS, indexing="ij")
    return offset.ravel(), length.ravel()


@functools.cache
def summed(offset, length):
    ranks = np.arange(offset + 1, offset + length + 1, dtype=np.longdouble)
    return float((1 / np.log2(ranks + 1)).sum())


def test_sums_equal_direct_summation_in_float64():
    due = [summed(*pair) for pair in zip(*grid(), strict=True)]
    np.testing.assert_allclose(discount_sums(*grid()), due, rtol=2e-13)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.by_default("True")
def test_sums_keep_their_relative_accuracy_in_float32(compiled):
    due = [summed(*pair) for pair in zip(*grid(), strict=True)]
    function = jax.jit(discount_sums) if compiled else discount_sums
    got = function(*map(jnp.asarray, grid()))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, due, rtol=1e-6)


def test_no_ranks_sum_to_exactly_zero():
    offset = np.arange(60)
    np.testing.assert_array_equal(discount_sums(offset, 0 * offset), 0)
    offset = jnp.asarray(offset)
    np.testing.assert_array_equal(jax.jit(discount_sums)(offset, 0 * offset), 0)
