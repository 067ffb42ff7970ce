"""The finished run that several files of tests look at."""

import fcntl
import functools
import os

import jax
import pytest

from experiments import dqn_mnist
from quantjax import data, models, report
from quantjax.run import parallel
from tests.report import runs


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run of the main job in short, with its page; made once for all workers, to be read.

    It has fewer digits and one device, and its network is a perceptron: convolutions that are
    optimised so little take a minute.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    # A second worker waits here until the first has made the run.
    with (folder / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = folder / "digits"
        if not (run / report.PAGE).exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(models, "convnet", perceptron)
                one = parallel.data_mesh(jax.devices()[:1])
                patch.setattr(parallel, "data_mesh", lambda *_: one)
                patch.setattr(data, "mnist5k", functools.partial(fewer, data.mnist5k))
                runs.launched(run, dqn_mnist, num_epochs=2, num_codewords=16, bits=16)
        return run


def perceptron(input_shape, *, dim, **_):
    return models.mlp(input_shape, hidden=(64,), dim=dim)


def fewer(protocol, source):
    """Every fourth row of each list of a protocol's split."""
    splits = protocol(source)
    names = ("train", "validation", "query", "database")
    lists = {name: getattr(splits, name)[::4] for name in names}
    return data.make_splits(source, **lists, name=splits.name)
