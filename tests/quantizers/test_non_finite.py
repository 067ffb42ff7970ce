"""Masked rows may hold NaN, rows that count may not: for every function that reads real rows."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.errors import InputError
from tests.quantizers import case as cases
from tests.quantizers.runs import CASES, alone, cast, compiled, each_of

UNREAD = {
    "product.split": "copies its rows",
    "kmeans.nearest": "gives a column of NaN a number, as `argmin` does",
    "binary.pack": "takes signs: what makes them refuses NaN",
    "ProductCodec.assignments": "reads nothing of the codebooks but their shape",
    "ResidualCodec.assignments": "reads nothing of the codebooks but their shape",
}


def drawn_by(case, draw):
    return [i for i, (_, kind) in enumerate(case.arguments) if kind is draw]


def is_a_table_of(case, position, letters):
    axes, draw = case.arguments[position]
    return draw is cases.normal and axes[0] in letters


masked_cases = [case for case in CASES if drawn_by(case, cases.mask)]
real_cases = [case for case in CASES if drawn_by(case, cases.normal) and case.name not in UNREAD]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@each_of(masked_cases)
def test_what_a_masked_row_holds_changes_no_bit(case, value):
    arguments = cases.draw(case, seed=0)
    given = cast(case, arguments)
    mask = np.asarray(arguments[drawn_by(case, cases.mask)[0]])
    for position in range(len(given)):
        if is_a_table_of(case, position, "NR"):
            given[position] = jnp.where(mask[:, None], given[position], value)
    got = compiled(case, case.settings[0])(*given)
    for one, other in zip(got[1], alone(case.name, 0, seed=0)[1], strict=True):
        np.testing.assert_array_equal(one, other)


@each_of(real_cases)
def test_nan_and_infinity_are_refused_by_name_and_row(case):
    given = [np.asarray(x) for x in cast(case, cases.draw(case, seed=0))]
    function = functools.partial(case.function, **case.settings[0])
    for position in drawn_by(case, cases.normal):
        for value, text in ((np.nan, "NaN"), (-np.inf, "-inf")):
            wrong = np.array(given[position])
            row = len(wrong) - 1  # the last rows of every mask count
            wrong[row, ...] = value
            arrays = [jnp.asarray(wrong) if i == position else x for i, x in enumerate(given)]
            message = rf"^\w+ must be numbers, got {text} in row \d+ \(\d+ of \d+ rows\): "
            with pytest.raises(InputError, match=message) as caught:
                function(*arrays)
            if is_a_table_of(case, position, "NQR"):
                assert f"in row {row} (1 of {len(wrong)} rows)" in str(caught.value)
