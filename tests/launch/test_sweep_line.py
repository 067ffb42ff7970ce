"""The line of the documents that runs a sweep, as it is written there."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# In place of python: prints a real sweep, and only records the commands of its runs.
STAND_IN = """#!{python}
import json, os, sys
if "--sweep" in sys.argv:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with open(os.environ["RECORDED"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


@pytest.mark.skipif(shutil.which("xargs") is None, reason="needs xargs")
def test_quotes_in_a_sweep_reach_its_commands(tmp_path):
    text = (ROOT / "docs" / "running.md").read_text()
    (line,) = re.findall(r"^    (python -m \S+ --sweep \| .*)$", text, flags=re.M)
    place = 'it\'s here, "quoted" and \\ too'
    line = line.replace(" --sweep", f" --config.data_dir={shlex.quote(place)} --sweep", 1)
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    recorded = tmp_path / "recorded"
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "RECORDED": str(recorded),
    }
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    commands = [json.loads(each) for each in recorded.read_text().splitlines()]
    assert len(commands) == 9
    assert all(each[:2] == ["-m", "experiments.dqn_mnist"] for each in commands)
    assert all(f"--config.data_dir={place}" in each for each in commands)
    assert len({tuple(each) for each in commands}) == 9
