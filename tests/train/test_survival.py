"""No run is lost: killed, interrupted twice, or out of disk, it goes on as if nothing had been."""

import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from quantjax import launch, train
from quantjax.run import parallel
from tests import programs, run_toy, toy
from tests.launch import numbers


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, monkeypatch, no_encoder):
    workdir, mesh = tmp_path / "run", parallel.data_mesh(jax.devices()[:1])
    arguments = "--config.num_epochs=12", "--log_every=1", "--checkpoint_every=3"
    programs.kill(workdir, *arguments)
    before = programs.left(workdir)
    # It goes on in this process, which has the programs of `fit` then.
    monkeypatch.setattr(parallel, "data_mesh", lambda _=None: mesh)
    numbers.leave_out(monkeypatch)
    argv = ["toy", f"--workdir={workdir}", "--nodraw_report", *arguments]
    launch.main(run_toy.get_config, run_toy.build, run_toy.measured, title="toy", argv=argv)
    programs.assert_went_on(workdir, before, [])
    experiment = toy.experiment(toy.dqn_ste(), num_epochs=12)
    whole = train.fit(experiment, mesh=mesh).state
    assert_equal_bits(programs.final_state(workdir, num_epochs=12), whole)
    assert programs.steps_of(workdir) == list(range(1, 49))
    assert programs.epochs_of(workdir) == list(range(12))


@pytest.mark.slow
def test_thirty_kills_at_random_moments_in_the_middle_of_saves_too(tmp_path):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    arguments = "--config.num_epochs=150", "--log_every=1", "--checkpoint_every=1"
    programs.run(whole, *arguments)
    rng, left, unfinished = random.Random(0), programs.left(workdir), 0
    for _ in range(30):
        (process,) = programs.start(workdir, *arguments)
        if rng.random() < 0.8:
            programs.wait_for_steps(workdir, 1, process)
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        ended = programs.wait([process])
        assert ended[0][0] == -signal.SIGKILL, ended
        assert "damaged" not in ended[0][2]
        before, left = left, programs.left(workdir)
        assert left.step >= before.step
        if before.step:
            programs.assert_went_on(workdir, before, ended)
        unfinished += any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    assert left.step > 30
    assert unfinished > 0
    programs.go_on(workdir, *arguments)
    assert_equal_bits(
        programs.final_state(workdir, num_epochs=150), programs.final_state(whole, num_epochs=150)
    )
    assert programs.steps_of(workdir) == programs.steps_of(whole) == list(range(1, 601))
    assert programs.epochs_of(workdir) == list(range(150))
    assert programs.values_of(workdir) == programs.values_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        (signal.SIGHUP, 75),
        (signal.SIGUSR1, 75),
        (signal.SIGINT, 128 + signal.SIGINT),
    ],
)
def test_a_signal_saves_and_says_whether_to_try_again(tmp_path, number, code):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    arguments = ("--config.num_epochs=60",)
    (process,) = programs.start(workdir, *arguments)
    programs.wait_for_steps(workdir, 2, process)
    process.send_signal(number)
    ((found, said, _),) = programs.wait([process])
    assert found == code
    assert f"stopped by {number.name} at step {programs.left(workdir).step};" in said
    programs.go_on(workdir, *arguments)
    programs.run(whole, *arguments)
    assert_equal_bits(
        programs.final_state(workdir, num_epochs=60), programs.final_state(whole, num_epochs=60)
    )
    assert programs.records_of(workdir)[-1]["step"] == 240


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_waits(tmp_path, number):
    # The refresh takes a minute, and the first signal waits for it.
    (process,) = programs.start(tmp_path / "run", "--config.refreshing=60.0", "--log_every=1")
    programs.wait_for_steps(tmp_path / "run", 4, process)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(1)
    if number == signal.SIGTERM:
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    ((code, _, _),) = programs.wait([process])
    assert code == 128 + signal.SIGINT
    assert time.perf_counter() - began < 5


@pytest.mark.slow
def test_a_dead_reader_of_the_log_ends_no_run(tmp_path):
    (process,) = programs.start(tmp_path / "run", "--log_every=1")
    for stream in (process.stdout, process.stderr):
        stream.close()
    assert process.wait(timeout=programs.SECONDS) == 0
    assert (tmp_path / "run" / "results.json").exists()
    assert programs.records_of(tmp_path / "run")[-1]["step"] == 20


@pytest.mark.slow
def test_sigquit_prints_all_stacks_and_the_run_goes_on(tmp_path):
    (process,) = programs.start(tmp_path / "run", "--config.num_epochs=20", "--log_every=1")
    programs.wait_for_steps(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGQUIT)
    ((code, _, errors),) = programs.wait([process])
    assert code == 0
    assert "most recent call first" in errors
    assert "loop.py" in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_whose_source_is_stalled(tmp_path, number):
    (process,) = programs.start(tmp_path / "run", "--config.pause=60.0", "--log_every=1")
    programs.wait_for_steps(tmp_path / "run", 4, process)
    began = time.perf_counter()
    process.send_signal(number)
    ((code, said, _),) = programs.wait([process])
    assert code == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert "stopped by" in said
    assert programs.left(tmp_path / "run").step == 4
    assert time.perf_counter() - began < 20


@pytest.fixture(scope="module")
def in_own_mounts():
    """A prefix for commands that may mount a small disk of their own, or a skip."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a small disk cannot be mounted")
    tried = subprocess.run([*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if tried.returncode:
        pytest.skip("mount is not allowed here: a small disk cannot be mounted")
    return prefix


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(tmp_path, in_own_mounts):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=180k tmpfs {disk}
        "$@"; echo "full: $?"
        mount -o remount,size=100m {disk}
        "$@"; echo "room: $?"
        mount -o remount,ro {disk}
        "$@"; echo "read-only: $?"
        mount -o remount,rw {disk}
        cp -r {disk}/run {tmp_path}/run
    """
    shell = [*in_own_mounts, "bash", "-c", script, "bash"]
    arguments = "--checkpoint_every=2", "--log_every=1"
    ((code, said, errors),) = programs.wait(programs.start(disk / "run", *arguments, prefix=shell))
    assert code == 0, errors
    codes = [line for line in said.splitlines() if line.startswith(("full", "room", "read-only"))]
    assert codes == ["full: 1", "room: 0", "read-only: 1"]
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 2
    assert "No space left on device" in told[0]
    assert "Read-only file system" in told[1]
    programs.run(tmp_path / "whole", *arguments)
    assert_equal_bits(
        programs.final_state(tmp_path / "run"), programs.final_state(tmp_path / "whole")
    )
    assert programs.steps_of(tmp_path / "run") == list(range(1, 21))
