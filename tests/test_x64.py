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
    out = subprocess.run(
        [*command, str(ROOT / "tests" / file)],
        cwd=ROOT,
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stdout[-5000:]
    assert " passed" in out.stdout
