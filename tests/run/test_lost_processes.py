"""One process of a run is lost: the others end too, and the run goes on where it was."""

import signal
import time

import jax
import numpy as np
import pytest

from quantjax import launch
from tests import programs


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(tmp_path, lost):
    started = programs.start(tmp_path / "run", *programs.TO_BE_KILLED, processes=2)
    programs.wait_for_steps(tmp_path / "run", 10, started[lost])
    started[lost].kill()
    codes = [code for code, _, _ in programs.wait(started)]
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == launch.TRY_AGAIN
    assert not (tmp_path / "run" / "results.json").exists()
    programs.go_on(tmp_path / "run", *programs.TO_BE_KILLED, processes=2)
    programs.run(tmp_path / "whole", *programs.TO_BE_KILLED, processes=2)
    assert programs.steps_of(tmp_path / "run") == list(range(1, 49))
    assert_equal_bits(
        *(programs.final_state(tmp_path / name, num_epochs=12) for name in ("run", "whole"))
    )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_processes(tmp_path):
    arguments = "--config.nan_at=7", "--checkpoint_every=2"
    ended = programs.wait(programs.start(tmp_path / "run", *arguments, processes=2))
    assert [code == 0 for code, _, _ in ended] == [False, False]
    assert any("loss is nan at step 7 (epoch 1" in errors for _, _, errors in ended)
    assert any("last good checkpoint is step 6" in errors for _, _, errors in ended)


@pytest.mark.slow
def test_no_process_leaves_while_the_first_one_measures(tmp_path):
    started = programs.start(
        tmp_path, "--config.measuring=60.0", "--config.num_epochs=2", processes=2
    )
    said = iter(started[0].stdout.readline, "")
    assert any("evaluating" in line for line in said)
    time.sleep(10)
    assert [process.poll() for process in started] == [None, None]
    for process in started:
        process.send_signal(signal.SIGTERM)
    assert [code for code, _, _ in programs.wait(started)] == [75, 75]
