"""Whole processes of the toy experiment: started, killed, and read."""

import itertools
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from quantjax import train
from quantjax.run import parallel
from tests import toy

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 120


def environment():
    """Returns variables of a process that takes compiled programs from the cache of the tests."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(
    workdir,
    *arguments,
    program="run_toy",
    processes=1,
    devices=1,
    platform="cpu",
    prefix=(),
    of_last=(),
):
    """Starts a program of tests/ in one process or several on loopback, `devices` each.

    The last process gets the arguments `of_last` as well. No encoder is exported.
    """
    variables = {**environment(), "JAX_PLATFORMS": platform, "TOY_DEVICES": str(devices)}
    variables["TOY_EXPORTS_NOTHING"] = "yes"
    cluster = [[]]
    if processes > 1:
        together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
        cluster = [[*together, f"--process_id={number}"] for number in range(processes)]
    cluster[-1] = [*cluster[-1], *of_last]
    module = [sys.executable, "-m", f"tests.{program}"]
    # `tests/report` looks at pages, each of which takes as long as a run.
    drawn = ["--nodraw_report"] if program == "run_toy" else []
    command = [*prefix, *module, f"--workdir={workdir}", *drawn, *arguments]
    return [
        subprocess.Popen(
            [*command, *place],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in cluster
    ]


def wait(started):
    """Waits for processes; returns (exit code, what was printed, errors) of each."""
    try:
        said = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(started, said, strict=True)]


def run(workdir, *arguments, **options):
    """Runs to the end, which must be a good one; returns what the first process printed."""
    ended = wait(start(workdir, *arguments, **options))
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return ended[0][1]


TO_BE_KILLED = "--config.num_epochs=12", "--log_every=1", "--checkpoint_every=3", "--deterministic"
"""Arguments of a run that lasts long enough to be killed, and knows where to go on."""


def kill(workdir, *arguments, **options):
    """Starts a run, and kills it after some steps."""
    (process,) = start(workdir, *arguments, **options)
    wait_for_steps(workdir, 10, process)
    process.kill()
    ((code, _, _),) = wait([process])
    assert code == -signal.SIGKILL
    assert not (workdir / "results.json").exists()


def kill_and_go_on(workdir, *arguments, **options):
    """Kills a run after some steps, and lets it go on to its end."""
    kill(workdir, *arguments, **options)
    go_on(workdir, *arguments, **options)


def go_on(workdir, *arguments, **options):
    """Runs what left a checkpoint to its end, which must be a good one and not begin anew."""
    before = left(workdir)
    ended = wait(start(workdir, *arguments, **options))
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    assert_went_on(workdir, before, ended)


class Left(NamedTuple):
    """What a run goes on from: the step of its latest checkpoint, 0 for none, and its records."""

    step: int
    records: list


def left(workdir):
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    step = max((int(name) for name in names if name.isdigit()), default=0)
    return Left(step, records_of(workdir, step) if step else [])


def assert_went_on(workdir, before, ended):
    """A run kept what there was: a step that it took again would show another rate."""
    assert before.step > 0
    assert before.records
    assert all("starting at step 0" not in errors for _, _, errors in ended), ended
    kept, count = records_of(workdir, before.step), len(before.records)
    assert kept[:count] == before.records, f"steps up to {before.step} were taken again"
    assert all("after_epoch" in record for record in kept[count:])  # it was killed ahead of it


def steps_in(workdir):
    """Returns the steps of the checkpoints, which is all that may be in their folder."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def wait_for_steps(workdir, count, process):
    """Waits until a run has logged so many records more than there are."""
    path = workdir / "metrics.jsonl"
    due = count + (len(path.read_text().splitlines()) if path.exists() else 0)
    while not path.exists() or len(path.read_text().splitlines()) < due:
        if process.poll() is not None:
            return
        time.sleep(0.01)


def records_of(workdir, last=math.inf):
    """Returns the records up to a step."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = map(json.loads, lines)
    return list(itertools.takewhile(lambda record: record["step"] <= last, records))


def steps_of(workdir):
    return [record["step"] for record in records_of(workdir) if "loss" in record]


def epochs_of(workdir):
    """Returns the epochs whose records after it are there, in their order."""
    return [each["after_epoch"] for each in records_of(workdir) if "after_epoch" in each]


def values_of(workdir):
    """Returns {(name, distance): value} of results.json."""
    rows = json.loads((workdir / "results.json").read_text())
    return {(row["name"], row["distance"]): row["value"] for row in rows}


def rows_of(workdir):
    """Returns the rows of results.json without "run", which no two runs have in common."""
    rows = json.loads((workdir / "results.json").read_text())
    return [{name: value for name, value in row.items() if name != "run"} for row in rows]


def final_state(workdir, make=toy.dqn_ste, **changes):
    """Reads the latest checkpoint of a run of a method."""
    experiment = toy.experiment(make(), **changes)
    mesh = parallel.data_mesh(jax.devices()[:1])
    return jax.tree.map(np.asarray, train.restore(experiment, workdir, mesh=mesh))


def flip_a_byte(folder):
    """Changes the largest file of a checkpoint by a bit."""
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
