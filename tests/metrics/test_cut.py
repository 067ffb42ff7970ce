import math

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.metrics import levels


def hypergeometric(items, relevant, inside):
    """(k, probability) of every possible number of relevant items among the ranks inside."""
    for k in range(max(0, inside - (items - relevant)), min(relevant, inside) + 1):
        ways = math.comb(relevant, k) * math.comb(items - relevant, inside - k)
        yield k, ways / math.comb(items, inside)


DRAWS = [  # items, relevant, inside
    (5, 2, 3),
    (5, 5, 3),
    (5, 0, 3),
    (400, 40, 37),
    (400, 390, 300),
    (3000, 900, 500),
    (3000, 3, 1),
]


def column(*values):
    return tuple(np.array([value]) for value in values)


@pytest.mark.parametrize(("items", "relevant", "inside"), DRAWS)
@pytest.mark.parametrize("slack", [0, 7, 4000])
def test_expectation_equals_the_sum_over_the_hypergeometric(items, relevant, inside, slack):
    due = sum(chance / (1 + k) for k, chance in hypergeometric(items, relevant, inside))
    draw = column(items, relevant, inside)
    got = levels.expectation_over_hits(lambda k: 1 / (1 + k), *draw, top_k=inside + slack)
    np.testing.assert_allclose(got, due, rtol=1e-13)


@pytest.mark.parametrize("draw", [(59_000, 5_900, 30_000), (100_000, 50, 30_000)])
def test_expectation_keeps_its_digits_in_float32_at_wide_cuts(draw):
    # In the second draw the window is far wider than the possible k: ratios beyond them are many.
    items, relevant, inside = draw
    mean = levels.expectation_over_hits(
        lambda k: 1.0 * k, *map(jnp.asarray, column(*draw)), top_k=54_000
    )
    np.testing.assert_allclose(mean, inside * relevant / items, rtol=2e-6)
    mean = levels.expectation_over_hits(lambda k: 1.0 * k, *column(*draw), top_k=54_000)
    np.testing.assert_allclose(mean, inside * relevant / items, rtol=1e-12)


@pytest.mark.parametrize(("items", "relevant", "inside"), DRAWS)
@pytest.mark.parametrize("valley", [0, 1, 20, 151, 300])
def test_extremes_of_a_valley_equal_a_full_search(items, relevant, inside, valley):
    def value(k):
        return np.abs(k - valley + 0.25)

    due = [value(k) for k, _ in hypergeometric(items, relevant, inside)]
    draw = column(items, relevant, inside)
    for top_k in (inside, inside + 2500):
        assert levels.minimum_over_hits(value, *draw, top_k=top_k) == min(due)
        assert levels.maximum_over_hits(value, *draw, top_k=top_k) == max(due)
