"""A run records which code, command and devices trained it, and edited code is noticed."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from quantjax import launch, train
from quantjax.run import stretches
from tests import programs, toy
from tests.test_launch import get_config

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder", "no_numbers", "one_device")

MODULE = "loss_of_a_lab"


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """A file of the user's that is loaded; writing to it is an edit between two starts."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"{MODULE}.py"
    path.write_text("weight = 1\n")
    importlib.import_module(MODULE)
    yield path
    del sys.modules[MODULE]


def build(config):
    return toy.experiment(toy.dqn_ste(), num_epochs=config.num_epochs, seed=config.seed)


def run(workdir, *arguments, build=build):
    argv = ["toy", f"--workdir={workdir}", "--config.num_epochs=2", *arguments]
    launch.main(get_config, build, lambda *_: {}, title="toy", argv=argv)


def stopping(config):
    return toy.interrupted(build(config))


def stop(workdir, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(workdir, *arguments, build=stopping)
    assert caught.value.code == launch.TRY_AGAIN


def facts(workdir):
    rows = json.loads((workdir / "results.json").read_text())
    assert all(row["run"] == rows[0]["run"] for row in rows)
    return rows[0]["run"]


def test_an_edited_loss_never_gets_the_number_of_the_old_one(tmp_path, edited, capsys):
    workdir = tmp_path / "run"
    run(workdir)
    before = {path: path.read_bytes() for path in workdir.glob("[!.]*") if path.is_file()}
    edited.write_text("weight = 2\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(workdir)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error == (
        f"error: {workdir} was trained to its end, step 8, by code that has changed since "
        f"({MODULE}.py); choose another --workdir to train anew, or give --allow_changed_code to "
        "measure what was trained before\n"
    )
    assert {path: path.read_bytes() for path in workdir.glob("[!.]*") if path.is_file()} == before
    run(workdir, "--allow_changed_code")
    assert f"warning: other code than trained the steps before: {MODULE}.py" in (
        capsys.readouterr().out
    )
    assert facts(workdir)["changed_code"] == [f"{MODULE}.py"]
    assert facts(workdir)["flags"]["allow_changed_code"] is True
    # Measuring is no training: without the option the number would still be of the old code.
    with pytest.raises(SystemExit):
        run(workdir)


def test_a_start_says_where_it_goes_on(tmp_path, capsys):
    workdir = tmp_path / "run"
    stop(workdir)
    step = programs.steps_in(workdir)[-1]
    assert 0 < step < 8
    assert "going on" not in capsys.readouterr().out
    run(workdir)
    assert f" going on from step {step} of 8\n" in capsys.readouterr().out
    run(workdir)
    out = capsys.readouterr().out
    assert " already trained, at step 8; no step was run, the rest is measured again\n" in out
    assert "warning" not in out


def test_code_that_changes_between_two_stretches_is_said_and_recorded(tmp_path, edited, capsys):
    workdir = tmp_path / "run"
    stop(workdir, "--keep=2")
    edited.write_text("weight = 2\n")
    run(workdir, "--skip_non_finite")
    out = capsys.readouterr().out
    assert f"warning: other code than trained the steps before: {MODULE}.py" in out
    assert "note: other flags than before: keep None (was 2), skip_non_finite True (was False)" in (
        out
    )
    found = facts(workdir)
    first, second = found["stretches"]
    assert (first["from"], first["to"], first["stopped"]) == (0, second["from"], "SIGTERM")
    assert (second["to"], second["num_steps"]) == (8, 8)
    assert (first["changed"], second["changed"]) == ([], [f"{MODULE}.py"])
    assert (first["flags"]["skip_non_finite"], second["flags"]["skip_non_finite"]) == (False, True)
    assert found["restarts"] == 1
    # The run was ended by the code of now, so that measuring it again needs no leave.
    run(workdir)


def test_results_say_how_they_came_about(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lab.py", "--config.bits=8"])
    began = stretches.now()
    run(tmp_path / "run", "--validate_every=1", "--log_every=2")
    found = facts(tmp_path / "run")
    assert found["command"].endswith(" --config.bits=8")
    assert re.fullmatch(r"[0-9a-f]{7}\+?|unknown", found["commit"])
    assert began <= found["begin"] <= found["end"] <= stretches.now()
    assert (found["step"], found["checkpoint"], found["restarts"]) == (8, "last", 0)
    assert found["flags"] == {
        "validate_every": 1, "skip_non_finite": False, "allow_query_overlap": False,
        "max_equal_images": 0.01, "deterministic": False, "log_every": 2,
    }  # fmt: skip
    assert found["devices"] == "8 x cpu"
    assert re.fullmatch("[0-9a-f]{16}", found["code"])
    assert "sources" not in found


def test_a_record_names_no_place_of_the_machine(tmp_path):
    run(tmp_path / "run")
    (only,) = stretches.read(tmp_path / "run")
    assert {"quantjax/train/loop.py", "tests/toy.py"} <= only["sources"].keys()
    assert not any(path.startswith("/") or "site-packages" in path for path in only["sources"])
    del only["command"]
    assert str(pathlib.Path.cwd()) not in json.dumps(only)


def test_a_run_of_an_older_version_goes_on_and_is_measured(tmp_path, capsys):
    workdir = tmp_path / "run"
    run(workdir)
    (workdir / stretches.FILE).unlink()
    run(workdir)
    assert "already trained, at step 8" in capsys.readouterr().out
    assert facts(workdir)["changed_code"] == []


def test_a_damaged_record_stops_no_run_and_is_kept(tmp_path):
    workdir = tmp_path / "run"
    stop(workdir)
    (workdir / stretches.FILE).write_text('[{"from": 0}]')
    with pytest.warns(UserWarning, match=r"stretches.json is damaged, so which code took"):
        run(workdir)
    assert (workdir / f"{stretches.FILE}.unreadable").read_text() == '[{"from": 0}]'
    assert [each["to"] for each in stretches.read(workdir)] == [8]


def test_a_refused_start_drops_no_record_of_metrics(tmp_path):
    experiment = toy.experiment(toy.dqn_ste(), num_epochs=1)
    train.fit(experiment, workdir=tmp_path, progress=False)
    seen = []

    def refuse(step, num_steps):
        seen.append((step, num_steps))
        raise ValueError("not today")

    (tmp_path / "metrics.jsonl").write_text("kept")
    with pytest.raises(ValueError, match="not today"):
        train.fit(experiment, workdir=tmp_path, progress=False, at_start=refuse)
    assert seen == [(4, 4)]
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"


PROGRAM = """
from quantjax import launch
from tests import toy
from tests.test_launch import get_config

def build(config):
    return toy.experiment(toy.dqn_ste(), num_epochs=2, seed=config.seed)

launch.main(get_config, build, lambda *_: {}, title="toy")
"""


@pytest.mark.slow
def test_the_file_that_was_started_is_compared_as_well(tmp_path):
    program = tmp_path / "lab.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), f"--workdir={tmp_path / 'run'}"]
    environment = {**os.environ, "PYTHONPATH": str(programs.ROOT), "JAX_PLATFORMS": "cpu"}

    def start():
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert start().returncode == 0
    program.write_text(f"{PROGRAM}# edited\n")
    ended = start()
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "(lab.py); choose another --workdir" in ended.stderr
