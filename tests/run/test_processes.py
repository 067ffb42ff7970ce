"""Several processes are one run: same numbers, one writer, one step to stop at."""

import functools
import json
import re
import signal
import time

import jax
import numpy as np
import pytest

from quantjax import launch, train
from quantjax.run import connection, parallel, processes
from tests import programs, run_toy, toy

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of this very process, on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    argv = ["toy", f"--workdir={workdir}"]
    parts = run_toy.get_config, run_toy.build, run_toy.measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_encoder", lambda *_: None)
        one = parallel.data_mesh(jax.devices()[:1])
        patch.setattr(parallel, "data_mesh", lambda _=None: one)
        launch.main(*parts, title="toy", argv=argv)
    return workdir


def assert_close(a, b, atol):
    close = functools.partial(np.testing.assert_allclose, atol=atol, equal_nan=False)
    jax.tree.map(close, a, b)


def written(errors):
    """Paths below the workdir that a process said it writes."""
    return {
        line.removeprefix("writes ") for line in errors.splitlines() if line.startswith("writes ")
    }


GLOO = re.compile(
    r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s"
)
"""What Gloo's threads say of their connections, in pieces that may come mixed."""


def test_two_processes_take_the_steps_of_one_and_measure_the_same(alone, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_TELLS_WRITES", str(tmp_path / "run"))
    ended = programs.wait(programs.start(tmp_path / "run", processes=2, devices=2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "everything is in" in ended[0][1]
    assert GLOO.sub("", ended[1][1]) == ""
    first, second = (written(errors) for _, _, errors in ended)
    assert {"codes.json", "codes-1.safetensors", "results.json", "metrics.jsonl"} <= first
    assert {path.split("/")[0] for path in second} == {"checkpoints", "logs"}
    logs = [tmp_path / "run" / "logs" / f"process-{number}.log" for number in (0, 1)]
    assert all("2 processes on" in log.read_text() for log in logs)
    assert programs.steps_of(tmp_path / "run") == programs.steps_of(alone)
    one, two = (programs.final_state(workdir) for workdir in (alone, tmp_path / "run"))
    assert int(one.step) == int(two.step) == 20
    assert np.any(two.params["codebooks"])  # the refresh was among them: before, all are 0
    assert_close(one, two, 1e-5)
    values = programs.values_of(tmp_path / "run")
    assert values == pytest.approx(programs.values_of(alone), abs=0.005)


TO_BE_STOPPED = "--config.num_epochs=30", "--config.pause=4.0", "--log_every=1"
"""Input of the second epoch takes seconds to come: a signal finds all waiting for it."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The workdir of two processes, one of which got a signal, and how they ended."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    started = programs.start(workdir, *TO_BE_STOPPED, processes=2)
    programs.wait_for_steps(workdir, 4, started[0])
    started[1].send_signal(signal.SIGTERM)
    return workdir, programs.wait(started)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_one_step(stopped):
    workdir, ended = stopped
    assert [code for code, _, _ in ended] == [75, 75], ended
    assert "stopped by SIGTERM at step" in ended[0][1]
    step = int(programs.final_state(workdir).step)
    assert step < 120
    assert programs.steps_of(workdir) == list(range(1, step + 1))


def assert_each_read_its_share(first, second):
    experiment = toy.experiment(toy.dqn_ste())
    splits, half = experiment.splits, experiment.batch_size // 2
    assert first["audit"] + second["audit"] == list(range(len(splits.source)))
    positions = [experiment.sampler(experiment.seed, epoch) for epoch in (0, 1)]
    batches = splits.train[np.concatenate(positions)]
    # One row and then two are read first, to know their shapes.
    assert first["train"][3:] == batches[:, :half].ravel().tolist()
    assert second["train"][3:] == batches[:, half:].ravel().tolist()
    queries = splits.query.tolist()  # fewer than one process takes at a time
    assert first["embed"][: len(queries)] == queries
    assert set(second["embed"]) == set(queries[:1])  # as padding


@pytest.mark.slow
def test_processes_that_were_stopped_go_on_to_the_same_bits(stopped):
    workdir, _ = stopped
    assert programs.left(workdir).step < 120
    programs.go_on(workdir, *TO_BE_STOPPED, processes=2)
    experiment = toy.experiment(toy.dqn_ste(), num_epochs=30)
    # A sum of two is the same in either order: two devices of one process have the bits of two.
    whole = train.fit(experiment, mesh=parallel.data_mesh(jax.devices()[:2]), log_every=1)
    jax.tree.map(np.testing.assert_array_equal, programs.final_state(workdir), whole.state)
    found, due = (
        [(each["step"], each["loss"], each["grad_norm"]) for each in records if "loss" in each]
        for records in (programs.records_of(workdir), whole.history)
    )
    assert found == due


@pytest.mark.slow
def test_two_processes_agree_on_what_to_refuse_and_where_to_go_back_to(tmp_path):
    ended = programs.wait(programs.start(tmp_path, program="agreeing", processes=2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in ended)
    assert first["on purpose"] == second["on purpose"] == ["InputError", "no folder x"]
    assert first["by fault"] == ["KeyError", "'num_codewords'"]
    assert second["by fault"] == ["RuntimeError", "process 0 failed, KeyError: 'num_codewords'"]
    assert second["settings"] == "process 1 runs with seed 1, not 0 of process 0"
    assert first["settings"] == "another process runs with other settings than process 0"
    assert "must be one folder for all processes; process 1 sees" in second["workdir"]
    assert first["workdir"] is not None
    for step, rows, (warning,) in (first["restored"], second["restored"]):
        assert (step, rows) == (1, 1.0)
        assert "checkpoint 2 is damaged" in warning
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["2"]
    assert "Input/output error" in second["unreadable"]
    assert "another process cannot go on from checkpoint 1" in first["unreadable"]
    assert_each_read_its_share(first["read"], second["read"])
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == {"4", "8"}  # as the first process's clock said
    assert first["best"] == second["best"] == 4
    assert second["unreadable image"] == "image 192 cannot be decoded"
    assert first["unreadable image"] == "process 1 cannot read an image; see what it says"


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_one_to_four_to_two_processes(tmp_path):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    arguments = ["--config.num_epochs=8", "--log_every=1", "--config.baselines=True"]
    programs.run(whole, *arguments)
    shapes = [(1, 8), (1, 1), (1, 4), (2, 1)]
    for place, (count, devices) in enumerate(shapes):
        left = programs.left(workdir)
        started = programs.start(workdir, *arguments, processes=count, devices=devices)
        if place < len(shapes) - 1:
            while not (workdir / "metrics.jsonl").exists() or (
                len((workdir / "metrics.jsonl").read_text().splitlines()) < len(left.records) + 3
            ):
                assert all(process.poll() is None for process in started)
                time.sleep(0.02)
            started[0].send_signal(signal.SIGTERM)
            due = 75
        else:
            due = 0
        ended = programs.wait(started)
        assert [code for code, _, _ in ended] == [due] * count, ended
        if place:
            programs.assert_went_on(workdir, left, ended)
    assert programs.steps_of(workdir) == programs.steps_of(whole) == list(range(1, 33))
    assert_close(programs.final_state(workdir), programs.final_state(whole), 1e-4)
    assert programs.values_of(workdir) == pytest.approx(programs.values_of(whole), abs=0.005)


@pytest.mark.slow
def test_processes_that_run_different_things_are_refused(tmp_path):
    for options, message in (
        (["--config.seed=1"], "process 1 runs with seed 1, not 0 of process 0"),
        (["--validate_every=1"], "process 1 runs with validate_every 1, not 0 of process 0"),
        ([f"--workdir={tmp_path}/other"], "must be one folder for all processes; process 1 sees"),
    ):
        started = programs.start(tmp_path / "run", processes=2, of_last=options)
        ended = programs.wait(started)
        assert [code for code, _, _ in ended] == [1, 1], ended
        assert message in ended[1][2]
        assert "Traceback" not in ended[0][2] + ended[1][2]
        assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_two_processes_go_back_behind_a_damaged_checkpoint_together(tmp_path):
    workdir = tmp_path / "run"
    programs.run(workdir, "--checkpoint_every=2")
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    programs.flip_a_byte(newest)
    before = programs.Left(18, programs.records_of(workdir, 18))
    ended = programs.wait(programs.start(workdir, processes=2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    programs.assert_went_on(workdir, before, ended)
    assert all("checkpoint 20 is damaged" in errors for _, _, errors in ended)
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["20"]
    programs.run(tmp_path / "whole")
    assert_close(programs.final_state(workdir), programs.final_state(tmp_path / "whole"), 1e-5)


def test_alone_nothing_is_waited_for():
    mesh = parallel.data_mesh()
    connection.start()
    assert processes.is_first()
    assert not processes.several()
    assert not processes.spans(mesh)
    assert processes.from_first(lambda: {"a": 1}) == {"a": 1}
    assert processes.from_all({"a": 1}) == [{"a": 1}]
    with pytest.raises(ValueError, match="no"):
        processes.from_first(lambda: int("no"))
    agreement = processes.Agreement(mesh)
    assert agreement.exchange(None) is None
    assert agreement.exchange(15) == 15
    assert processes.share(10) == slice(0, 10)
    assert parallel.local_rows(mesh, 16) == slice(0, 16)
    assert parallel.local(mesh) is mesh


@pytest.mark.parametrize(("seconds", "least", "most"), [(10.0, 2, 2), (0.1, 3, 4), (0.001, 17, 32)])
def test_a_number_is_agreed_on_when_numbers_have_travelled_twice(monkeypatch, seconds, least, most):
    """Each long step asks, every second one of a tenth of a second, every sixteenth at most."""
    now = 0.0
    monkeypatch.setattr(processes.time, "perf_counter", lambda: now)
    agreement = processes.Agreement(parallel.data_mesh())
    agreement._alone = False  # as if some of the devices were another process's

    def say(number):
        nonlocal now
        now += seconds
        return agreement.exchange(number)

    assert [say(None) for _ in range(100)] == [None] * 100
    heard = [say(15) for _ in range(most)]
    assert set(heard) == {None, 15}
    assert least <= heard.index(15) + 1


LOST = "UNKNOWN: Gloo all-reduce failed: Read error: Connection reset by peer\nmore"


@pytest.mark.parametrize(
    ("error", "several", "history", "due"),
    [
        (jax.errors.JaxRuntimeError(LOST), True, [{"step": 1}], LOST.splitlines()[0]),
        # After training, errors have no history.
        (jax.errors.JaxRuntimeError(LOST), True, None, LOST.splitlines()[0]),
        # Before the first step the same error would come again and again.
        (jax.errors.JaxRuntimeError(LOST), True, [], None),
        (jax.errors.JaxRuntimeError(LOST), False, [{"step": 1}], None),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), True, [{"step": 1}], None),
        (ValueError(LOST), True, [{"step": 1}], None),
    ],
)
def test_a_lost_process_is_told_from_other_errors(error, several, history, due, monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: several)
    if history is not None:
        error.history = history
    told = due if due is None else f"another process of the run is gone: {due}"
    assert processes.lost_peer(error) == told
