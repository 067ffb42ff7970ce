"""Fixtures of runs."""

import pytest

from tests.launch import numbers


@pytest.fixture(scope="module")
def no_numbers():
    """Lets the runs of a file measure nothing; see `numbers`."""
    with pytest.MonkeyPatch.context() as patch:
        numbers.leave_out(patch)
        yield
