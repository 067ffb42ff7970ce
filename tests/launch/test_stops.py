"""A run that is stopped in a save, an evaluation or a baseline goes on to the same results."""

import os
import signal
import time

import pytest

from quantjax import evaluate, launch
from quantjax.run import checkpoint
from tests import programs, run_toy
from tests.launch import numbers

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder", "no_numbers", "one_device")


def run(workdir, *arguments, measured=run_toy.measured):
    argv = ["toy", f"--workdir={workdir}", "--config.num_epochs=2", *arguments]
    launch.main(run_toy.get_config, run_toy.build, measured, title="toy", argv=argv)


def before(function):
    """The function, ahead of which a signal comes."""

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGHUP)
        return function(*args, **kwargs)

    return interrupted


@pytest.mark.parametrize(
    ("module", "name"),
    [(checkpoint.Store, "save"), (evaluate, "evaluate_method"), (run_toy, "baselines")],
    ids=["save", "evaluation", "baselines"],
)
def test_a_signal_at_any_stage_says_try_again(tmp_path, monkeypatch, module, name):
    arguments = "--checkpoint_every=2", "--config.baselines=True"
    baseline = {"pq on pixels": lambda: numbers.results("pq on pixels")}
    monkeypatch.setattr(run_toy, "baselines", lambda *_: baseline)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, before(getattr(module, name)))
        with pytest.raises(SystemExit) as caught:
            run(tmp_path / "run", *arguments)
    assert caught.value.code == launch.TRY_AGAIN
    run(tmp_path / "run", *arguments)
    assert programs.steps_of(tmp_path / "run")[-1] == 8
    names = {name for name, _ in programs.values_of(tmp_path / "run")}
    assert {"toy", "pq on pixels"} <= names


SLOWLY = (
    "--config.baselines=True", "--config.refreshing=1.5", "--config.measuring=5.0",
    "--checkpoint_every=1", "--log_every=1",
)  # fmt: skip
"""Refresh, evaluation and baselines take seconds, in which a signal can come."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    programs.run(workdir, "--config.baselines=True")
    return workdir


def stage_has_begun(workdir, stage):
    if stage == "save":
        return any((workdir / "checkpoints").glob("*tmp*"))
    if stage == "evaluation":
        log = workdir / "logs" / "process-0.log"
        return log.exists() and " evaluating\n" in log.read_text()
    return (workdir / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["save", "evaluation", "baselines"])
def test_a_run_that_is_stopped_at_any_stage_ends_with_the_same_values(
    tmp_path, whole, stage, number
):
    workdir = tmp_path / "run"
    (process,) = programs.start(workdir, *SLOWLY)
    while not stage_has_begun(workdir, stage):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    ((code, said, errors),) = programs.wait([process])
    assert code == (-number if number == signal.SIGKILL else launch.TRY_AGAIN), (said, errors)
    programs.run(workdir, *SLOWLY)
    assert programs.values_of(workdir) == programs.values_of(whole)
    assert programs.steps_of(workdir) == list(range(1, 21))
