"""NaN and infinity raise an error with their row, except under jit, where values are unknown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.arrays import can_be_seen, check_finite, check_mask, check_shape, masked_rows
from quantjax.errors import InputError

ROWS = [[0, 1], [2, np.nan], [3, np.inf], [np.nan, np.inf]]


@pytest.mark.parametrize(
    ("due", "text"),
    [
        (("N", "D"), r"\[N, D\]"),
        ((3, "D", 2), r"\[3, D, 2\]"),
        (("N", 5, 2), r"\[N, 5, 2\] for books"),
        ((2, 4, 3), r"\(2, 4, 3\)"),
        ((2,), r"\(2,\)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_shape_that_was_due(due, text):
    beside = " for books" if "books" in text else ""
    with pytest.raises(InputError, match=rf"^x must have shape {text}, got \(2, 4, 2\)$"):
        check_shape("x", np.zeros((2, 4, 2)), *due, beside=beside)
    check_shape("x", np.zeros((2, 4, 2)), 2, "D", 2)
    check_shape("x", np.zeros(()))


def test_masked_rows_are_zero_whatever_they_hold():
    x, mask = np.array(ROWS), np.array([True, False, False, False])
    got, counts = masked_rows(x, mask)
    np.testing.assert_array_equal(got, [[0, 1], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(counts, mask)
    assert (got.dtype, counts.dtype) == (jnp.float32, bool)
    assert masked_rows(np.arange(3), None)[1].all()
    with pytest.raises(InputError, match="rows must be numbers, got NaN in row 1"):
        masked_rows(x, None, "rows")
    with pytest.raises(InputError, match=r"mask must have shape \(4,\), got \(1, 4\)"):
        masked_rows(x, mask[None])
    check_mask(None, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"x must be numbers, got NaN in row 1 \(3 of 4 rows\)"),
        ([True, False, True, False], r"x must be numbers, got inf in row 2 \(1 of 4 rows\)"),
        ([[1, 1], [1, 0], [1, 0], [1, 0]], r"x must be numbers, got NaN in row 3 \(1 of 4 rows\)"),
    ],
)
def test_the_first_row_that_counts_is_named(dtype, mask, message):
    mask = None if mask is None else np.array(mask, bool)
    narrow = "float32" if dtype == "float64" else dtype
    for x in (np.array(ROWS, jnp.dtype(dtype)), jnp.asarray(np.float32(ROWS), narrow)):
        with pytest.raises(InputError, match=message):
            check_finite("x", x, mask)


def test_rows_that_do_not_count_may_hold_anything():
    check_finite("x", np.array(ROWS), np.array([True, False, False, False]))
    check_finite("x", np.array(ROWS[:1]))
    check_finite("x", np.arange(3))
    check_finite("x", np.zeros((0, 2)))


@pytest.mark.parametrize(("value", "text"), [(1e39, r"1e\+39"), (-np.inf, "-inf"), (np.nan, "NaN")])
def test_what_float32_cannot_hold_is_refused(value, text):
    with pytest.raises(InputError, match=rf"x must be numbers, got {text}: look for"):
        check_finite("x", np.float64(value))
    check_finite("x", np.array([-3.4e38, 1e-300]))


def test_a_tracer_shows_no_values_but_an_array_beside_it_does():
    def both(traced):
        assert not can_be_seen(traced)
        check_finite("traced", traced)
        check_finite("x", np.array(ROWS), traced[:, 0] > 0)
        with pytest.raises(InputError, match="closed over must be numbers, got NaN in row 1"):
            check_finite("closed over", closed_over)
        return traced

    closed_over = jnp.array(ROWS)
    jax.jit(both)(jnp.ones((4, 2)))
    jax.eval_shape(both, jnp.ones((4, 2)))
