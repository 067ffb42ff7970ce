"""A run starts on any number of processes and devices, or is refused in a line that helps."""

import signal
import socket
import time

import pytest

from quantjax import errors, launch
from tests import programs, run_toy


def refused(capsys, *arguments, build=run_toy.build):
    """The one line of a start that is refused ahead of anything else."""
    parts = run_toy.get_config, build, run_toy.measured
    with pytest.raises(SystemExit) as caught:
        launch.main(*parts, title="toy", argv=["toy", *arguments])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_devices_and_batch_are_checked_ahead_of_data_and_workdir(tmp_path, capsys):
    workdir = tmp_path / "run"
    arguments = f"--workdir={workdir}", "--config.batch_size=60"
    line = refused(capsys, *arguments, build=lambda config: pytest.fail("data were read"))
    assert line == (
        "error: batch_size must be a multiple of the 8 devices, got 60; the nearest are 56 and 64"
    )
    assert not workdir.exists()


def test_a_batch_that_no_config_names_is_checked_ahead_of_the_workdir(tmp_path, capsys):
    def build(config):
        return run_toy.build(config)._replace(batch_size=60)

    line = refused(capsys, f"--workdir={tmp_path / 'run'}", build=build)
    assert "got 60; the nearest are 56 and 64" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("nowhere.invalid:1", 2, 1), "the coordinator's name 'nowhere.invalid' is unknown"),
        (("127.0.0.1:1", 0, 0), "num_processes must be 1 or more, got 0"),
    ],
)
def test_a_wrong_coordinator_is_refused_ahead_of_the_workdir(tmp_path, capsys, place, message):
    names = "coordinator", "num_processes", "process_id"
    arguments = [f"--{name}={value}" for name, value in zip(names, place, strict=True)]
    line = refused(capsys, f"--workdir={tmp_path / 'run'}", *arguments)
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_a_run_says_what_it_runs_on_ahead_of_the_data(tmp_path, capsys):
    def build(config):
        assert "8 x cpu; float32; batch 64, 8 on each\n" in capsys.readouterr().out
        raise errors.InputError("no data")

    assert refused(capsys, f"--workdir={tmp_path / 'run'}", build=build) == "error: no data"


def errors_of(said):
    return [line for line in said.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_processes_that_miss_others_end_in_a_line(tmp_path):
    """JAX alone is silent for 300 s, and then aborts."""
    for number, due in ((0, "not all of the other 2 have connected"), (1, "does not answer at")):
        place = [f"--coordinator=127.0.0.1:{programs.free_port()}", "--num_processes=3"]
        place += [f"--process_id={number}", "--start_timeout=1"]
        ((code, _, said),) = programs.wait(programs.start(tmp_path / "run", *place))
        assert code == 1, said
        (line,) = errors_of(said)
        assert "did not find each other in 1 s" in line
        assert due in line
    assert not (tmp_path / "run").exists()


def test_a_signal_ends_a_process_that_waits_for_others(tmp_path):
    """JAX waits without Python, where signals are not handled."""
    port = programs.free_port()
    place = f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--process_id=0"
    (process,) = programs.start(tmp_path / "run", *place)
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)) and process.poll() is None:
            time.sleep(0.05)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)), "it listens on other addresses too"
    process.send_signal(signal.SIGTERM)
    ((code, said, errors),) = programs.wait([process])
    assert code == 75, (said, errors)
    assert "stopped by SIGTERM" in said


def test_a_signal_while_data_are_read_ends_all_processes(tmp_path):
    """JAX catches SIGTERM once processes connect, and aborts those that process 0 leaves."""
    started = programs.start(tmp_path / "run", "--config.reading=60.0", processes=2)
    said = iter(started[0].stdout.readline, "")
    assert any("2 processes on" in line for line in said)
    started[0].send_signal(signal.SIGTERM)
    time.sleep(0.5)
    started[1].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in programs.wait(started)] == [75, 75]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("processes", "devices", "batch_size"),
    [(3, 1, 60), (1, 36, 72)],
)
@pytest.mark.slow
def test_any_number_of_processes_and_devices_ends_where_one_does(
    tmp_path, processes, devices, batch_size
):
    arguments = f"--config.batch_size={batch_size}", "--config.baselines=True"
    programs.run(tmp_path / "one", *arguments)
    programs.run(tmp_path / "many", *arguments, processes=processes, devices=devices)
    one, many = (tmp_path / name for name in ("one", "many"))
    assert programs.values_of(many) == pytest.approx(programs.values_of(one), abs=0.005)
    assert programs.steps_of(many) == programs.steps_of(one)
    found, due = (
        [each["loss"] for each in programs.records_of(path) if "loss" in each]
        for path in (many, one)
    )
    assert found == pytest.approx(due, abs=1e-4)
