import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import ema
from tests.quantizers import devices, oracles

M, K, ROWS = 3, 8, 40
BOOKS = jnp.asarray(np.random.default_rng(1).normal(size=(M, K, 2)), jnp.float32).at[1, 3:].add(50)
X = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, M * 2)), jnp.float32)
USAGE = jax.jit(ema.usage)


def test_usage_made_by_hand():
    # Rows at 1, 1, 9, 10 of codewords 0, 10 and 99.
    got = USAGE(jnp.array([[[0.0], [10.0], [99.0]]]), jnp.array([[1.0], [1.0], [9.0], [10.0]]))
    np.testing.assert_array_equal(got.counts, [[2, 2, 0]])
    np.testing.assert_array_equal(got.dead, [1])
    np.testing.assert_allclose(got.perplexity, [2.0], rtol=1e-6)
    np.testing.assert_allclose(got.distortion, [(1 + 1 + 1 + 0) / 4])


def test_usage_equals_a_count_in_float64():
    got = USAGE(BOOKS, X)
    for name, due in zip(got._fields, oracles.usage(BOOKS, X), strict=True):
        np.testing.assert_allclose(getattr(got, name), due, rtol=1e-5, atol=1e-6)
    assert got.dead[1] >= 5
    assert got.dead.dtype == got.counts.dtype == jnp.int32
    assert got.perplexity.dtype == got.distortion.dtype == jnp.float32


def test_perplexity_goes_from_1_to_the_number_of_codewords():
    got = ema.perplexity(jnp.array([[7, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]]))
    np.testing.assert_allclose(got, [1, 4, 1], rtol=1e-6)


def test_mask_drops_rows():
    mask = np.arange(ROWS) % 3 != 0
    padded = jnp.where(mask[:, None], X, 1e3)
    got = USAGE(BOOKS, padded, jnp.asarray(mask))
    for name, due in zip(got._fields, oracles.usage(BOOKS, X[mask]), strict=True):
        np.testing.assert_allclose(getattr(got, name), due, rtol=1e-5, atol=1e-6)
    none = USAGE(BOOKS, X, jnp.zeros(ROWS, bool))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in none)


def test_rows_over_eight_devices_count_as_on_one():
    due = USAGE(BOOKS, X)
    sharded = USAGE(BOOKS, *devices.by_rows(X))
    for got in (sharded, devices.pmap_gathered(ema.usage, BOOKS, [X])):
        np.testing.assert_array_equal(got.counts, due.counts)
        np.testing.assert_array_equal(got.dead, due.dead)
        np.testing.assert_allclose(got.perplexity, due.perplexity, rtol=1e-6)
        np.testing.assert_allclose(got.distortion, due.distortion, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_awkward_points_are_counted_in_float32(scale, dtype):
    books, x = BOOKS * scale, (X * scale).astype(dtype)
    got = USAGE(books, x)
    for name, due in zip(got._fields, oracles.usage(books, np.float32(x)), strict=True):
        np.testing.assert_allclose(getattr(got, name), due, rtol=1e-4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\].* got \(40, 5\)"):
        ema.usage(BOOKS, X[:, :5])
    with pytest.raises(ValueError, match=r"mask must have shape \(40,\), got \(39,\)"):
        ema.usage(BOOKS, X, jnp.ones(39, bool))
