"""The contract tests once more in a process whose JAX defaults to 64 bits."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONTRACTS = (
    "losses/test_contract.py",
    "quantizers/test_contract.py",
    "quantizers/test_contract_on_devices.py",
    "metrics/test_contract.py",
    "test_methods.py",
    "data/test_augment.py",
)


@pytest.mark.slow
@pytest.mark.parametrize("file", CONTRACTS)
def test_a_contract_holds_under_x64(file):
    # All cases of the file: those, too, that other runs leave to the slow tests.
    every = ["-m", "slow or not slow"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider", *every]
    # Programs are optimised as little as in other tests, also where `XLA_FLAGS=` is given: what 64
    # bits change are types, and thousands of programs take a quarter of all slow tests.
    env = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    out = subprocess.run(
        [*command, str(ROOT / "tests" / file)],
        cwd=ROOT,
        env={**env, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stdout[-5000:]
    assert " passed" in out.stdout
