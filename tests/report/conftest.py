"""The finished run that several files of tests look at."""

import fcntl
import os

import pytest

from experiments import dqn_mnist
from quantjax import report
from tests.report import runs


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run of the main job, three epochs, with its page; made once for all workers, to be read."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    # A second worker waits here until the first has made the run.
    with (folder / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = folder / "digits"
        return run if (run / report.PAGE).exists() else runs.launched(run, dqn_mnist, num_epochs=3)
