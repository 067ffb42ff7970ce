"""Compiled programs are kept on disk by `fit`, unless the user says otherwise."""

import contextlib
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from quantjax import train

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@contextlib.contextmanager
def settings(**changes):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.parametrize(
    ("home", "due"), [("cache", "cache/quantjax"), ("", "user/.cache/quantjax")]
)
def test_programs_are_kept_in_the_users_cache(home, due, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home) if home else "")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    with settings(jax_compilation_cache_dir=None, jax_persistent_cache_min_compile_time_secs=1.0):
        train.keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / due)
        assert jax.config.jax_persistent_cache_min_compile_time_secs < 1


@pytest.mark.parametrize("said", ["", "elsewhere"])
def test_what_the_user_said_of_the_folder_stays(said):
    with settings(jax_compilation_cache_dir=said, jax_persistent_cache_min_compile_time_secs=1.0):
        train.keep_programs()
        assert jax.config.jax_compilation_cache_dir == said
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 1


def test_what_the_user_said_of_quick_programs_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    with settings(jax_compilation_cache_dir=None, jax_persistent_cache_min_compile_time_secs=7.0):
        train.keep_programs()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 7


NOTEBOOK = """
import jax
from quantjax import models, train
from tests import toy

print(jax.numpy.ones(3).sum())  # programs of before, when there was no folder yet
events = []
jax.monitoring.register_event_listener(lambda event, **about: events.append(event))

def build():
    toy.network.cache_clear()
    toy.dqn.cache_clear()
    return toy.experiment(toy.dqn(), num_epochs=1)

for _ in range(2):
    del events[:]
    train.fit(build())
    kept = events.count("/jax/compilation_cache/cache_hits")
    print("built", kept, events.count("/jax/compilation_cache/cache_misses"))
"""


def test_the_same_config_built_anew_compiles_no_step(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = (
        [int(number) for number in line.split()[1:]]
        for line in done.stdout.splitlines()
        if line.startswith("built")
    )
    # The start, a step, the pass over the training rows and k-means; what is no closure of the
    # experiment's is still in memory.
    assert first[1] >= second[0] >= 4
    assert second[1] == 0
    assert list((tmp_path / "quantjax").iterdir())
