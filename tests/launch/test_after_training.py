"""After training: a checkpoint is measured again, a run is extended, another starts from it."""

import functools
import json
import os
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
from ml_collections import config_dict

from quantjax import evaluate, index, launch, train
from quantjax.run import parallel, stretches
from tests import programs, toy
from tests.launch import numbers

pytestmark = pytest.mark.usefixtures("no_encoder", "one_device")

VALIDATION = (0.2, 0.9, 0.5, 0.4, 0.3)
"""Validation mAP after each epoch, in place of the measured: the second epoch is the best."""


def get_config():
    return config_dict.create(seed=0, num_codewords=16, num_epochs=3, rate=0.2)


@functools.cache
def falling(rate, num_epochs):
    """Returns one optimizer for equal arguments, so that its steps are traced once."""
    return optax.sgd(optax.linear_schedule(rate, 0.0, 4 * num_epochs), momentum=0.9)


def build(config):
    """DQN with trained codebooks; the rate falls to 0 at the last epoch, however many there are."""
    method = toy.dqn_ste(num_codewords=config.num_codewords)
    optimizer = falling(config.rate, config.num_epochs)
    found = toy.experiment(method, num_epochs=config.num_epochs, seed=config.seed)
    return found._replace(optimizers=dict.fromkeys(found.optimizers, optimizer))


def stopping_in(stop):
    """Builds the experiment, and sends SIGTERM when an epoch begins."""

    def build_with_signal(config):
        experiment = build(config)

        def sampler(seed, epoch):
            if epoch == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return experiment.sampler(seed, epoch)

        return experiment._replace(sampler=sampler)

    return build_with_signal


def run(workdir, *arguments, build=build):
    argv = ["toy", f"--workdir={workdir}", "--nodraw_report", *arguments]
    launch.main(get_config, build, lambda *_: {}, title="dqn", argv=argv)


def built(**changes):
    """The experiment as the launcher builds it."""
    config = get_config()
    config.update(changes)
    return build(config)._replace(config=json.loads(config.to_json()))


@pytest.fixture(scope="module")
def mesh(one_device):
    return parallel.data_mesh()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
    """A run of 3 epochs, validated after each."""
    workdir = tmp_path_factory.mktemp("run") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "watcher", watcher)
        patch.setattr(train, "save_encoder", lambda *_: None)
        run(workdir, "--validate_every=1")
    return workdir


def watcher(experiment, *, every, mesh):
    return lambda _, epoch: {"validation": VALIDATION[epoch]} if every else {}


@pytest.fixture
def no_numbers(monkeypatch):
    numbers.leave_out(monkeypatch)


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "toy")


@pytest.fixture(scope="module")
def extended(finished, tmp_path_factory):
    """The finished run, extended to 5 epochs."""
    workdir = shutil.copytree(finished, tmp_path_factory.mktemp("extended") / "toy")
    with pytest.MonkeyPatch.context() as patch:
        numbers.leave_out(patch)
        patch.setattr(train, "save_encoder", lambda *_: None)
        run(workdir, "--extend=5")
    return workdir


def state_of(folder):
    """Content and time of every file and folder."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def rows_of(folder):
    """Rows of results.json, without the facts of the start that measured."""
    rows = json.loads((folder / "results.json").read_text())
    return [{key: row[key] for key in row if key != "run"} for row in rows]


def measured_in(folder):
    """Name, checkpoint and step of each result by real queries."""
    rows = json.loads((folder / "results.json").read_text())
    facts = [(row["name"], row["run"]["checkpoint"], row["run"]["step"]) for row in rows]
    return [each for each, row in zip(facts, rows, strict=True) if row["distance"] == "aqd"]


def codes_of(experiment, state):
    codec = experiment.method.codec(state.params, state.state)
    x = train.embed(experiment, state, experiment.splits.database)
    return np.asarray(evaluate.encode(codec, x))


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def refused(capsys, *arguments, status=1, **options):
    """Runs; returns the only line of an error."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments, **options)
    assert caught.value.code == status
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


def test_the_best_by_validation_is_measured_beside_the_last(finished, mesh):
    rows = [row for row in rows_of(finished) if row["distance"] == "aqd"]
    assert measured_in(finished) == [
        ("dqn", "last", 12),
        ("dqn validation", "last", 12),
        ("dqn best", "best", 8),
        ("dqn best validation", "best", 8),
    ]
    for row, step in zip(rows[::2], (12, 8), strict=True):
        state = train.restore(built(), finished, step=step, mesh=mesh)
        due = evaluate.evaluate_method(built(), state, mesh=mesh).results[0]
        assert row["value"] == due.value


def test_a_checkpoint_is_measured_without_a_write_to_the_workdir(
    finished, tmp_path, mesh, capsys, monkeypatch
):
    before = state_of(finished)
    out = tmp_path / "out"
    for _ in range(2):  # over what the first start has left
        run(finished, "--evaluate_only", f"--out={out}")
        assert rows_of(out) == rows_of(finished)
        monkeypatch.undo()  # of `no_encoder`, which one start is enough to write
    assert state_of(finished) == before
    assert "measuring step 12; the last checkpoint is of step 12" in capsys.readouterr().out
    state = train.restore(built(), finished, mesh=mesh)
    np.testing.assert_array_equal(index.load(out).codes, codes_of(built(), state))
    x = built().splits.source[built().splits.database]["image"]
    np.testing.assert_array_equal(index.load_encoder(out)(x), index.load(out).codes)
    assert programs.records_of(out) == programs.records_of(finished)
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
def test_the_page_of_a_checkpoint_has_the_course_of_its_training(finished, tmp_path):
    before = state_of(finished)
    run(finished, "--evaluate_only", f"--out={tmp_path / 'out'}", "--draw_report")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "metrics.jsonl holds no record" not in page
    assert state_of(finished) == before


@pytest.mark.parametrize(
    ("asked", "step", "due"),
    [
        ("best", 8, [("dqn", "best", 8), ("dqn last", "last", 12)]),
        ("8", 8, [("dqn", "step", 8)]),
        ("last", 12, [("dqn", "last", 12), ("dqn best", "best", 8)]),
    ],
)
@pytest.mark.by_default("best-*")
def test_any_checkpoint_is_measured(finished, tmp_path, mesh, asked, step, due):
    run(finished, "--evaluate_only", f"--checkpoint={asked}", f"--out={tmp_path / 'out'}")
    state = train.restore(built(), finished, step=step, mesh=mesh)
    np.testing.assert_array_equal(index.load(tmp_path / "out").codes, codes_of(built(), state))
    found = measured_in(tmp_path / "out")
    assert [each for each in found if "validation" not in each[0]] == due


def test_a_checkpoint_ahead_of_the_first_codebooks_is_refused(finished, tmp_path, capsys):
    options = "--evaluate_only", "--checkpoint=4", f"--out={tmp_path / 'out'}"
    assert "codebooks do not exist before epoch 1" in refused(capsys, finished, *options)


def test_a_run_that_trains_leaves_the_codes_of_its_best_where_asked(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(evaluate, "watcher", watcher)
    run(tmp_path / "toy", "--validate_every=1", "--checkpoint=best")
    state = train.restore(built(), tmp_path / "toy", step=8, mesh=mesh)
    np.testing.assert_array_equal(index.load(tmp_path / "toy").codes, codes_of(built(), state))


def test_an_unfinished_run_is_measured_as_it_is(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "toy", build=stopping_in(2))
    run(tmp_path / "toy", "--evaluate_only", f"--out={tmp_path / 'out'}")
    assert {row["name"] for row in rows_of(tmp_path / "out")} >= {"dqn", "dqn float"}
    assert not (tmp_path / "toy" / "results.json").exists()


def test_a_finished_run_goes_on_by_the_schedule_of_its_new_length(
    finished, extended, tmp_path, mesh, no_numbers
):
    before = train.restore(built(), finished, mesh=mesh)
    workdir = shutil.copytree(extended, tmp_path / "toy")
    longer = built(num_epochs=5)
    due = train.fit(longer._replace(config=None), state=before, mesh=mesh).state
    assert_equal_bits(train.restore(longer, workdir, mesh=mesh), due)
    # The schedule matters: with that of 3 epochs, whose rate is 0 by now, nothing would move.
    assert not np.array_equal(due.params["codebooks"], before.params["codebooks"])
    steps = [each["step"] for each in programs.records_of(workdir) if "loss" in each]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20
    about = json.loads((workdir / "config.json").read_text())
    assert about["config"]["num_epochs"] == 5
    assert about["extended"] == [{"num_epochs": 3, "step": 12}]
    assert train.list_checkpoints(workdir).best == 8  # as before
    found = stretches.read(workdir)
    assert [(each["from"], each["to"], each["num_steps"]) for each in found] == [
        (0, 12, 12),
        (12, 20, 20),
    ]
    run(workdir, "--extend=6")
    assert train.list_checkpoints(workdir).steps[-1] == 24
    about = json.loads((workdir / "config.json").read_text())
    assert about["extended"][1:] == [{"num_epochs": 5, "step": 20}]


@pytest.mark.slow
def test_an_extension_that_was_stopped_goes_on_to_the_same_bits(workdir, tmp_path, mesh):
    shutil.copytree(workdir, tmp_path / "whole")
    run(tmp_path / "whole", "--extend=6")
    with pytest.raises(SystemExit) as caught:
        run(workdir, "--extend=6", build=stopping_in(4))
    assert caught.value.code == launch.TRY_AGAIN
    assert train.list_checkpoints(workdir).steps[-1] < 24
    run(workdir, "--extend=6")
    longer = built(num_epochs=6)
    found, due = (train.restore(longer, each, mesh=mesh) for each in (workdir, tmp_path / "whole"))
    assert_equal_bits(found, due)
    assert rows_of(workdir) == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_the_default_workdir_of_an_extension_is_that_of_the_shorter_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["--extend=3"]):
        argv = ["toy", "--config.num_epochs=2", "--nodraw_report", *arguments]
        launch.main(get_config, build, lambda *_: {}, title="dqn", argv=argv)
    (folder,) = (tmp_path / "runs").iterdir()
    assert train.list_checkpoints(folder).steps[-1] == 12


def still(workdir, finished):
    """Runs an experiment that starts from a finished run's parameters, and changes none."""
    run(workdir, f"--init_from={finished}", "--config.rate=0.0", "--config.num_epochs=2")


def test_a_run_starts_from_the_parameters_of_another(finished, tmp_path, mesh, capsys, no_numbers):
    still(tmp_path / "a", finished)
    assert f"the first parameters are those of {finished}" in capsys.readouterr().out
    found = train.restore(built(rate=0.0, num_epochs=2), tmp_path / "a", mesh=mesh)
    assert_equal_bits(
        found.params["net"], train.restore(built(), finished, mesh=mesh).params["net"]
    )
    about = json.loads((tmp_path / "a" / "config.json").read_text())
    assert about["init_from"] == train.describe_checkpoint(finished)
    still(tmp_path / "a", finished)  # nothing is left to do
    assert str(finished) not in (tmp_path / "a" / "config.json").read_text()


@pytest.mark.slow
def test_a_warm_run_that_was_stopped_goes_on(finished, tmp_path, mesh):
    options = f"--init_from={finished}", "--config.num_epochs=2"
    run(tmp_path / "whole", *options)
    with pytest.raises(SystemExit):
        run(tmp_path / "a", *options, build=stopping_in(1))
    run(tmp_path / "a", options[1])  # the checkpoint has all that it needs
    found, due = (
        train.restore(built(num_epochs=2), tmp_path / each, mesh=mesh) for each in ("a", "whole")
    )
    assert_equal_bits(found, due)


@pytest.mark.slow
def test_another_first_state_is_another_run(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in ([], [f"--init_from={finished}"]):
        argv = ["toy", "--config.num_epochs=2", *arguments, "--nodraw_report"]
        launch.main(get_config, build, lambda *_: {}, title="dqn", argv=argv)
    cold, warm = sorted((tmp_path / "runs").iterdir(), key=lambda p: "init" in config_text(p))
    assert "init_from" in config_text(warm)
    line = refused(capsys, cold, f"--init_from={finished}", "--config.num_epochs=2")
    assert f"{cold} holds a run of another config (init_from.digest is None there" in line
    shutil.rmtree(warm / "checkpoints")
    line = refused(capsys, warm, "--config.num_epochs=2")
    assert "starts from the parameters of another run (toy at step 12); give --init_from" in line


def config_text(folder):
    return (folder / "config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "epochs", "option"),
    [
        ((), 3, "--extend=5"),  # the command that began the run
        (("--config.num_epochs=6",), 6, "--extend=6"),
        (("--evaluate_only",), 3, "--config.num_epochs=5"),
    ],
)
@pytest.mark.by_default("*6---extend=6")
def test_a_command_of_another_length_is_told_the_option(
    extended, tmp_path, arguments, epochs, option, capsys, no_numbers
):
    workdir = shutil.copytree(extended, tmp_path / "toy")
    capsys.readouterr()
    due = (
        f"error: {workdir} holds a run of 5 epochs, {epochs} are asked for; give {option}, or "
        "choose another workdir\n"
    )
    assert refused(capsys, workdir, *arguments) == due
    about = "another config (num_epochs is 5 there, 3 here, seed is 0 there, 1 here)"
    assert about in refused(capsys, workdir, "--config.seed=1")
    run(workdir, *arguments, option)  # the last of two values counts


def test_a_command_of_less_epochs_is_told_no_option_that_would_be_refused(workdir, capsys):
    line = refused(capsys, workdir, "--config.num_epochs=2")
    assert "another config (num_epochs is 3 there, 2 here); choose another workdir" in line


REFUSED = {
    "--checkpoint=first --evaluate_only": (2, "takes best, last or the number of a step, got"),
    "--checkpoint=4": (2, "--checkpoint=4 needs --evaluate_only"),
    "--checkpoint=best": (2, "--checkpoint=best needs --validate_every=EPOCHS, or --evaluate_only"),
    "--out=x": (2, "--out needs --evaluate_only"),
    "--evaluate_only --extend=5": (2, "--evaluate_only trains nothing; drop --extend"),
    "--evaluate_only --init_from=x": (2, "--evaluate_only trains nothing; drop --init_from"),
    "--extend=0": (2, "flag --extend=0: 0 is not a positive integer"),
    "--extend=2": (1, "toy has 3 epochs; --extend must be more, got 2"),
    "--extend=3": (1, "toy has 3 epochs; --extend must be more, got 3"),
    "--extend=5 --config.seed=1": (1, "holds a run of another config (seed is 0 there, 1 here)"),
    "--evaluate_only --config.seed=1": (1, "another config (seed is 0 there, 1 here)"),
    "--evaluate_only --checkpoint=7": (1, "has no checkpoint of step 7; there are 4, 8, 12"),
    "--init_from=nothing": (1, "nothing has no checkpoints; train there first"),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_is_one_line_and_changes_nothing(finished, arguments, capsys):
    status, message = REFUSED[arguments]
    before = state_of(finished)
    assert message in refused(capsys, finished, *arguments.split(), status=status)
    assert state_of(finished) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate_only"], "has no checkpoints; train there first"),
        (["--extend=5"], "has no config.json; it holds no run of an experiment file"),
        ([], "is a file, not a folder; choose another workdir"),
    ],
)
def test_a_workdir_of_nothing_or_a_file_is_refused(tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("dear")
    names = ("nothing",) if arguments else ("file", "file/below")
    for name in names:
        assert message in refused(capsys, tmp_path / name, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "dear"


def test_an_out_that_is_a_file_or_holds_other_things_is_refused(finished, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("dear")
    for out, message in (
        (tmp_path / "thesis.tex", "is a file, not a folder"),
        (tmp_path, "is not empty and holds no run"),
    ):
        line = refused(capsys, finished, "--evaluate_only", f"--out={out}")
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_was_stopped_is_not_extended(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "toy", build=stopping_in(1))
    capsys.readouterr()
    line = refused(capsys, tmp_path / "toy", "--extend=5")
    assert "is unfinished, at step" in line
    assert "of 12; let it end without --extend first" in line
    assert json.loads(config_text(tmp_path / "toy"))["config"]["num_epochs"] == 3


def test_parameters_that_do_not_fit_are_refused_before_anything_is_claimed(
    finished, tmp_path, capsys
):
    line = refused(capsys, tmp_path / "a", f"--init_from={finished}", "--config.num_codewords=8")
    assert "params/codebooks is float32[2, 16, 4], due is float32[2, 8, 4]" in line
    assert not (tmp_path / "a").exists()


def test_a_best_that_can_never_be_is_refused_at_the_start(tmp_path, capsys):
    def unvalidated(config):
        experiment = build(config)
        nothing = np.empty(0, np.int64)
        return experiment._replace(splits=experiment.splits._replace(validation=nothing))

    options = "--checkpoint=best", "--validate_every=1"
    line = refused(capsys, tmp_path / "toy", *options, build=unvalidated)
    assert "no checkpoint will be the best: no validation queries" in line
    assert not (tmp_path / "toy").exists()


@pytest.mark.slow
def test_two_processes_extend_and_measure_as_one_does(tmp_path):
    options = "--config.num_epochs=2", "--checkpoint_every=4", "--nodraw_report"
    for name in ("one", "two"):
        programs.run(tmp_path / name, *options)
    programs.run(tmp_path / "one", *options, "--extend=3", devices=2)
    programs.run(tmp_path / "two", *options, "--extend=3", processes=2)
    measure = "--config.num_epochs=3", "--evaluate_only", f"--out={tmp_path / 'out'}"
    programs.run(tmp_path / "two", *measure, processes=2)
    found, due = (
        {row["name"]: row["value"] for row in rows_of(tmp_path / name)} for name in ("out", "one")
    )
    assert found == pytest.approx(due, abs=0.005)
    ended = programs.wait(programs.start(tmp_path / "two", "--extend=2", processes=2))
    assert [code for code, _, _ in ended] == [1, 1]
    assert "has 3 epochs; --extend must be more, got 2" in ended[0][2]
    started = programs.start(
        tmp_path / "warm", "--config.num_epochs=2", f"--init_from={tmp_path / 'two'}", processes=2
    )
    assert [code for code, _, _ in programs.wait(started)] == [0, 0]
