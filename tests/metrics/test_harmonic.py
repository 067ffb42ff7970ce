import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.metrics.rank_sums import harmonic_sums, ramp_over_ranks

OFFSETS = [0, 1, 2, 7, 30, 1000, 60_000, 1_000_000]
LENGTHS = [1, 2, 7, 8, 9, 10, 11, 17, 40, 1000, 60_000]


def grid():
    offset, length = np.meshgrid(OFFSETS, LENGTHS, indexing="ij")
    return offset.ravel(), length.ravel()


def summed(offset, length):
    ranks = np.arange(1, length + 1, dtype=np.longdouble)
    return (1 / (offset + ranks)).sum(), (ranks / (offset + ranks)).sum()


def worst_relative_error(sums, offset, length):
    exact = np.array([summed(a, r) for a, r in zip(offset, length, strict=True)]).T
    return np.max(np.abs(np.array(sums, np.longdouble) - exact) / exact)


def test_sums_equal_direct_summation_in_float64():
    offset, length = grid()
    assert worst_relative_error(harmonic_sums(offset, length), offset, length) < 1e-14


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.by_default("True")
def test_sums_keep_their_relative_accuracy_in_float32(compiled):
    offset, length = grid()
    function = jax.jit(harmonic_sums) if compiled else harmonic_sums
    sums = function(jnp.asarray(offset), jnp.asarray(length))
    assert all(part.dtype == jnp.float32 for part in sums)
    assert worst_relative_error(sums, offset, length) < 5e-7


def test_no_ranks_sum_to_exactly_zero():
    offset = np.arange(60)
    for function, offsets in [
        (harmonic_sums, offset),
        (jax.jit(harmonic_sums), jnp.asarray(offset)),
    ]:
        for part in function(offsets, 0 * offsets):
            np.testing.assert_array_equal(part, 0)


def test_ramp_equals_its_loop():
    offset, length, first, step = 3, 5, 2.5, 0.75
    expected = sum((first + (t - 1) * step) / (offset + t) for t in range(1, length + 1))
    got = ramp_over_ranks(np.array([offset]), np.array([length]), first=first, step=step)
    np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_a_ramp_far_down_the_ranking_keeps_its_digits():
    # With s r + (b - s (a + 1)) (H_{a+r} - H_a) float32 leaves about 2 digits here.
    offset, length = jnp.array([1_000_000]), jnp.array([2])
    got = ramp_over_ranks(offset, length, first=11, step=1.0)
    np.testing.assert_allclose(got, 11 / 1_000_001 + 12 / 1_000_002, rtol=1e-6)
