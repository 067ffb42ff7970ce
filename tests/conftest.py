"""One process, eight simulated devices, a persistent compile cache."""

import collections
import contextlib
import fnmatch
import functools
import gc
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))

# Where wandb is installed, no run of a test is a run of its user's.
os.environ |= {"WANDB_MODE": "disabled", "WANDB_ERROR_REPORTING": "false"}
# Where the shell forbids it, each process would compile the package and each worker the tests anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Tracing makes many small objects that live on: looking through them takes a sixth of the time.
gc.set_threshold(100_000, 20, 20)
# Most of the time goes into compiling thousands of small programs, each run once or twice: they
# are optimised as little as can be. `XLA_FLAGS= pytest` tests the code that users run.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # later versions end at a flag that they do not know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
jax.config.update("jax_platforms", "cpu")  # eight of them, whatever else is there
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(_CACHE / "quantjax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Every operation of a program would name ten frames of pytest.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Each program is written in a context of MLIR, which takes 3 ms to make, as long as writing a
# small program: those of a file share one. A later JAX that has no such function makes its own.
with contextlib.suppress(ImportError, AttributeError):
    from jax._src.interpreters import mlir

    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

LONG = (
    "test_methods.py",
    "test_contract.py",
    "test_report.py",
    "test_processes.py",
    "test_survival.py",
    "test_every_experiment.py",
    "test_launch.py",
    "test_after_training.py",
    "test_plan.py",
    "test_train.py",
)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out the slow ones
def pytest_collection_modifyitems(items):
    """Long files first: no worker is left with one when the others are done.

    `test_report` makes the run that `test_browser` looks at, which would wait beside it. Documents
    are one long test each.
    """
    mark_cases_that_are_slow(items)
    items.sort(key=lambda item: item.path.name not in LONG and item.path.suffix != ".md")


def mark_cases_that_are_slow(items):
    """Marks as slow each case that no pattern of its test's mark `by_default` names.

    A test of which only such cases are collected, for they were asked for by name, keeps them.
    """
    of_test = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("by_default"):
            of_test[item.path, item.originalname].append(item)
    for cases in of_test.values():
        patterns = cases[0].get_closest_marker("by_default").args
        others = [
            case
            for case in cases
            if not any(fnmatch.fnmatch(case.callspec.id, pattern) for pattern in patterns)
        ]
        for case in others if len(others) < len(cases) else ():
            case.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def release_programs():
    """Drops compiled programs after each file: thousands in one process run out of memory maps."""
    yield
    jax.clear_caches()
    with contextlib.suppress(NameError, AttributeError):
        mlir.make_ir_context.cache_clear()


@pytest.fixture(scope="module")
def no_page():
    """Lets runs draw no page, which takes longer than they do: `tests/report` looks at pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantjax.report.keep", lambda *_, **__: None)
        patch.setattr("quantjax.report.draw", lambda _: [])
        patch.setattr("quantjax.report.write", lambda workdir, _: workdir / "report.html")
        yield


@pytest.fixture
def no_encoder(monkeypatch):
    """Lets the runs of a test export no encoder, which takes as long as they train.

    Runs of fixtures of a wider scope have theirs.
    """
    monkeypatch.setattr("quantjax.train.save_encoder", lambda *_: None)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def data_dir() -> pathlib.Path:
    """The folder of real data, or a skip that says why."""
    folder = os.environ.get("QUANTJAX_DATA")
    if not folder:
        pytest.skip("real data: QUANTJAX_DATA is not set")
    return pathlib.Path(folder)
