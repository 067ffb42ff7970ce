"""The loops of the docs that try a run again work as they are written there."""

import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import programs

RUNNING = programs.ROOT / "docs" / "running.md"


def script(heading):
    """The first block of commands below a heading of docs/running.md."""
    text = RUNNING.read_text().split(f"### {heading}\n")[1]
    block = re.search(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)[0]
    return re.sub("^    ", "", block, flags=re.MULTILINE).strip() + "\n"


SHELL, SLURM = "Machines that are taken away", "Slurm, Kubernetes, Open MPI"

CODES = """#!/bin/bash
# Ends with the next of the codes, and notes its arguments.
echo "$@" >> called
code=$(head -1 codes); sed -i 1d codes; exit $code
"""
TOY = f"""#!/bin/bash
# The toy run in place of the experiment that the docs name.
cd {programs.ROOT}
[ "$2 $3" = "experiments.dqn cifar10" ] || exit 99
exec {sys.executable} -m tests.run_toy "${{@:4}}"
"""
REQUEUE = """#!/bin/bash
echo "$@" >> requeued
"""
SRUN = f"""#!{sys.executable}
# Does what srun does: two tasks, of which one that fails ends the other.
import os, signal, subprocess, sys, time
assert sys.argv[1] == "--kill-on-bad-exit=1"
tasks = []
for number in range(2):
    place = dict(SLURM_STEP_NODELIST="127.0.0.1", SLURM_STEP_NUM_TASKS="2", SLURM_NTASKS="2",
                 SLURM_PROCID=str(number), SLURM_LOCALID=str(number), SLURM_STEP_TASKS_PER_NODE="2")
    tasks.append(subprocess.Popen(sys.argv[2:], env=os.environ | place))
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
open("tasks", "w").write(" ".join(str(task.pid) for task in tasks))
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):
        [task.send_signal(signal.SIGTERM) for task in tasks if task.poll() is None]
        [task.wait(60) for task in tasks]
    time.sleep(0.05)
codes = [task.returncode for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""


def begin(tmp_path, heading, programs_by_name):
    """Starts a script of the docs where the programs that it calls are others."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name, text in programs_by_name.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SCRATCH": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "JAX_COORDINATOR_PORT": str(programs.free_port()),
        "JAX_PLATFORMS": "cpu",
        "TOY_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    return subprocess.Popen(
        ["bash", "-c", script(heading)], cwd=tmp_path, env=environment, start_new_session=True
    )


@pytest.mark.parametrize(
    ("codes", "due", "num_calls"),
    [
        ("75 134 137 143 0 0", 0, 5),
        ("75 1 0", 1, 2),
        ("3 0", 3, 1),
        ("130 0", 130, 1),
        ("137 " * 30, 137, 20),  # killed for its memory, each time anew
    ],
)
def test_the_loop_of_the_shell_tries_again_after_a_stop(tmp_path, codes, due, num_calls):
    (tmp_path / "codes").write_text(codes.replace(" ", "\n"))
    assert begin(tmp_path, SHELL, {"python": CODES}).wait(60) == due
    calls = (tmp_path / "called").read_text().splitlines()
    assert calls == ["-m experiments.dqn cifar10 --workdir=runs/a"] * num_calls


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (75, None, True), (75, "19", True), (75, "20", False), (134, None, True), (137, None, True),
        (137, "20", False), (143, "1", True), (0, None, False), (1, None, False),
    ],
)  # fmt: skip
def test_the_job_of_slurm_is_queued_again_after_a_stop(
    tmp_path, monkeypatch, code, restarts, requeued
):
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    (tmp_path / "codes").write_text(f"{code}\n")
    assert begin(tmp_path, SLURM, {"srun": CODES, "scontrol": REQUEUE}).wait(60) == code
    assert (tmp_path / "called").read_text() == (
        f"--kill-on-bad-exit=1 python -m experiments.dqn cifar10 --workdir={tmp_path}/a\n"
    )
    assert (tmp_path / "requeued").exists() == requeued
    assert "--open-mode=append" in script(SLURM)


@pytest.mark.slow
def test_the_loop_of_the_shell_ends_a_run_that_is_stopped_on_the_way(tmp_path):
    workdir, pids = tmp_path / "runs" / "a", tmp_path / "pids"
    pids.touch()
    toy = TOY.replace("cd", f"echo $$ >> {pids}; cd").replace('"${@:4}"', f"--workdir={workdir}")
    process = begin(tmp_path, SHELL, {"python": toy})
    for count in (1, 2):
        while len(pids.read_text().split()) < count:
            assert process.poll() is None
            time.sleep(0.05)
        programs.wait_for_steps(workdir, 1, process)
        os.kill(int(pids.read_text().split()[-1]), signal.SIGTERM)
    assert process.wait(programs.SECONDS) == 0
    assert len(pids.read_text().split()) == 3
    assert programs.steps_of(workdir)[-1] == 20
    assert (workdir / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "codes"),
    # After a kill srun stops the other task, which may be past its own end with 75.
    [(signal.SIGTERM, {75}), (signal.SIGKILL, {137, 143})],
)
def test_the_job_of_slurm_ends_a_run_that_is_stopped_on_the_way(tmp_path, number, codes):
    workdir, stubs = tmp_path / "a", {"python": TOY, "srun": SRUN, "scontrol": REQUEUE}
    process = begin(tmp_path, SLURM, stubs)
    programs.wait_for_steps(workdir, 1, process)
    # To one task: the agreement, or srun, stops the other.
    os.kill(int((tmp_path / "tasks").read_text().split()[1]), number)
    assert process.wait(programs.SECONDS) in codes
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert not (workdir / "results.json").exists()
    assert begin(tmp_path, SLURM, stubs).wait(programs.SECONDS) == 0
    programs.run(tmp_path / "whole", processes=2)
    due, found = (programs.final_state(folder) for folder in (tmp_path / "whole", workdir))
    jax.tree.map(np.testing.assert_array_equal, found, due)
