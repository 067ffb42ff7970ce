import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.metrics.rank_sums import miss_exponent


def draws():
    """Columns of (items, relevant, ranks) small and large, few and many."""
    for n in (1, 2, 5, 9, 17, 100, 1000, 60_000, 1_000_000):
        for p in {1, 2, 3, n // 100, n // 3, n - 1, n}:
            for r in {0, 1, 2, 3, n // 100, n // 3, n - p}:
                if 1 <= p <= n and 0 <= r <= n - p:
                    yield n, p, r


COLUMNS = np.array(sorted(set(draws()))).T


@functools.cache
def exact():
    values = []
    for n, p, r in COLUMNS.T:
        few, many = sorted((int(p), int(r)))
        factors = np.arange(n - few + 1, n + 1, dtype=np.longdouble)
        values.append(-np.log1p(-np.longdouble(many) / factors).sum())
    return np.array(values)


def test_exponents_equal_products_of_ratios():
    np.testing.assert_allclose(miss_exponent(*COLUMNS), exact().astype(float), rtol=1e-14)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.by_default("True")
def test_chances_keep_their_digits_in_float32(compiled):
    function = jax.jit(miss_exponent) if compiled else miss_exponent
    got = function(*jnp.asarray(COLUMNS))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(-np.expm1(-got), -np.expm1(-exact().astype(float)), rtol=2e-6)
    likely = exact() < 10
    np.testing.assert_allclose(got[likely], exact()[likely].astype(float), rtol=2e-6)


def test_small_draws_are_quotients_of_binomials():
    for n, p, r in [(6, 2, 3), (5, 5, 0), (7, 3, 4), (40, 20, 15)]:
        due = math.comb(n - p, r) / math.comb(n, r)
        got = np.exp(-miss_exponent(*np.array([[n], [p], [r]])))
        np.testing.assert_allclose(got, due, rtol=1e-13)


def test_more_ranks_than_misses_hit_for_certain():
    for draw in ([5, 3, 3], [5, 5, 1], [60_000, 30_000, 30_001]):
        assert np.isposinf(miss_exponent(*np.array(draw)[:, None]))
        assert np.isposinf(miss_exponent(*jnp.asarray(draw)[:, None]))


def test_two_large_numbers_do_not_overflow():
    got = miss_exponent(*jnp.asarray([[2_000_000_000], [700_000_000], [1_299_999_999]]))
    assert got[0] > 100
