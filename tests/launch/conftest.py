"""Fixtures that make the runs of a file cheap, where it does not look at what they leave out."""

import jax
import pytest

from quantjax.run import parallel
from tests.launch import numbers


@pytest.fixture(scope="module")
def no_numbers():
    """Lets runs measure nothing, which takes longer than they train; see `numbers`."""
    with pytest.MonkeyPatch.context() as patch:
        numbers.leave_out(patch)
        yield


@pytest.fixture(scope="module")
def one_device():
    """Lets runs take one device, whose programs are compiled in half the time of those of eight."""
    data_mesh = parallel.data_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "data_mesh", lambda _=None: data_mesh(jax.devices()[:1]))
        yield
