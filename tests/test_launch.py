"""The launcher parses flags, fills the workdir, and reports errors by one line and an exit code."""

import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from ml_collections import config_dict

from experiments.baselines import baselines
from quantjax import cli, data, errors, evaluate, index, launch, train
from quantjax.launch import running
from tests import programs, run_toy, toy
from tests.launch import numbers

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")


def get_config():
    return config_dict.create(
        seed=0, bits=8, num_codewords=16, num_epochs=3, learning_rate=0.2,
        data_dir=config_dict.placeholder(str),
        features_dir="runs/features", nested={"depth": 1},
    )  # fmt: skip


def build(config):
    return toy.experiment(toy.dqn(), num_epochs=config.num_epochs, seed=config.seed)


def nothing(experiment, mesh, trained):
    """No baselines, where a test looks at none."""
    return {}


def run(workdir, *arguments, build=build, measured=baselines):
    argv = ["toy", f"--workdir={workdir}", *arguments]
    launch.main(get_config, build, measured, title="dqn", argv=argv)


@pytest.fixture
def no_numbers(monkeypatch):
    """Lets the runs of a test measure nothing; see `numbers`."""
    numbers.leave_out(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "toy"
    run(workdir)
    return workdir


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """The same run, stopped after an epoch."""
    workdir = tmp_path_factory.mktemp("early") / "toy"
    run(workdir, "--config.num_epochs=1")
    return workdir


def test_a_run_leaves_all_that_is_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert [path.name for path in (finished / "logs").iterdir()] == ["process-0.log"]
    log = (finished / "logs" / "process-0.log").read_text()
    for due in ("8 x cpu", "first step after", "step 12/12", "evaluating", "metrics:"):
        assert due in log
    assert names >= {
        "config.json", "metrics.jsonl", "checkpoints", "codes-1.safetensors", "codes.json",
        "results.json", "per_query.safetensors", "encoder",
    }  # fmt: skip
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"] == "toy"
    assert config["config"]["num_epochs"] == 3
    codes = index.load(finished)
    np.testing.assert_array_equal(codes.ids, toy.splits().database)


def test_the_encoder_of_a_run_gives_its_codes_without_the_experiment(finished):
    encoder, found = index.load_encoder(finished), index.load(finished)
    x = toy.splits().source[found.ids]["image"]
    np.testing.assert_array_equal(encoder(x), found.codes)


def test_a_run_whose_network_cannot_be_exported_says_so_in_one_line(
    tmp_path, monkeypatch, capsys, no_numbers
):
    def fail(*args):
        raise ValueError("no such\nprogram")

    monkeypatch.setattr(train, "save_encoder", fail)
    run(tmp_path / "toy", "--config.num_epochs=1", measured=nothing)
    out = capsys.readouterr().out
    assert " no encoder: ValueError: no such program\n" in out
    assert not (tmp_path / "toy" / "encoder").exists()
    assert len(index.load(tmp_path / "toy").codes) == len(toy.splits().database)


def test_an_encoder_is_written_anew_from_the_checkpoints_of_a_run(finished, monkeypatch, capsys):
    monkeypatch.undo()  # of `no_encoder`
    digest = index.load_encoder(finished).digest
    (finished / "encoder" / "embed.1.bin").write_bytes(b"of an old version")
    monkeypatch.setattr(train, "open_run", build_of)
    cli.main(["export-encoder", str(finished), "--json"])
    due = {"encoder": str(finished / "encoder"), "digest": digest}
    assert json.loads(capsys.readouterr().out) == due
    assert index.load_encoder(finished).digest == digest


def build_of(workdir):
    config = get_config()
    return build(config)._replace(config=json.loads(config.to_json()))


def fail():
    raise KeyError("num_codewords")


def failing(experiment, mesh, trained):
    found = baselines(experiment, mesh, trained)
    return {"first": fail, **found, "last": fail}


def test_a_baseline_that_fails_costs_its_own_row_and_the_exit_code_says_so(
    tmp_path, finished, capsys
):
    argv = ["toy", f"--workdir={tmp_path / 'toy'}"]
    with pytest.raises(SystemExit) as caught:
        launch.main(get_config, build, failing, title="dqn", argv=argv)
    assert caught.value.code == launch.BASELINE_FAILED == 3
    assert capsys.readouterr().err.splitlines() == [
        f"error: baseline {name} failed, KeyError: 'num_codewords'" for name in ("first", "last")
    ]
    assert programs.rows_of(tmp_path / "toy") == programs.rows_of(finished)


def test_codes_and_results_are_written_ahead_of_the_baselines(tmp_path, capsys):
    def ending(*parts):
        os.kill(os.getpid(), signal.SIGTERM)

    argv = ["toy", f"--workdir={tmp_path / 'toy'}", "--config.num_epochs=0"]
    with pytest.raises(SystemExit) as caught:
        launch.main(get_config, build, ending, title="dqn", argv=argv)
    assert caught.value.code == 75
    assert len(index.load(tmp_path / "toy").codes) == len(toy.splits().database)
    names = [result.name for result in evaluate.read_results(tmp_path / "toy")]
    assert names == ["dqn", "dqn", "dqn float", "dqn validation"]


def breaking(error):
    def build(config):
        raise error

    return build


ONE_LINE = {
    "input": errors.InputError("similar must have shape (2, 2), got (2, 3)"),
    "file": errors.MissingFileError("no folder x"),
    "package": errors.MissingPackageError("photos need Pillow"),
    "type": errors.InputTypeError("images must be uint8"),
    "row": errors.RowError("rows must lie in 0 to 3"),
    "finite": errors.NonFiniteError("loss is nan at step 3"),
    "damage": errors.DamagedError("no checkpoint can be read"),
    "full": OSError(errno.ENOSPC, "No space left on device", "runs/a"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a"),
    "read-only": OSError(errno.EROFS, "Read-only file system", "runs/a"),
    "closed": PermissionError(errno.EACCES, "Permission denied", "runs/a"),
}
WHOLE = {
    "value": ValueError("Incompatible shapes for broadcasting: (3,) and (2,)"),
    "missing": FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
    "connection": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "module": ModuleNotFoundError("No module named 'nump'"),
    "attribute": AttributeError("'NoneType' object has no attribute 'x'"),
    "arithmetic": FloatingPointError("invalid value (nan) encountered in add"),
}


@pytest.mark.parametrize("kind", ONE_LINE)
def test_an_error_on_purpose_or_of_the_disk_is_one_line(tmp_path, capsys, kind):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", build=breaking(ONE_LINE[kind]))
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: {ONE_LINE[kind]}\n"


@pytest.mark.parametrize("kind", WHOLE)
def test_any_other_error_keeps_its_traceback(tmp_path, capsys, kind):
    with pytest.raises(type(WHOLE[kind])) as caught:
        run(tmp_path / "toy", build=breaking(WHOLE[kind]))
    assert caught.value is WHOLE[kind]
    assert capsys.readouterr().err == ""


def test_debug_shows_the_traceback_of_every_error(tmp_path, capsys, no_numbers):
    with pytest.raises(errors.InputError):
        run(tmp_path / "toy", "--debug", build=breaking(ONE_LINE["input"]))
    argv = ["toy", f"--workdir={tmp_path / 'toy'}", "--config.num_epochs=0", "--debug"]
    with pytest.raises(SystemExit):
        launch.main(get_config, build, lambda *_: {"first": fail}, title="dqn", argv=argv)
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert 'raise KeyError("num_codewords")' in err


@pytest.mark.slow
def test_debug_finds_nans_and_leaks_where_asked(tmp_path, monkeypatch):
    monkeypatch.undo()  # of `no_encoder`: exports are looked at for leaks, too
    before = jax.config.jax_debug_nans, jax.config.jax_check_tracer_leaks
    held = []

    def leaking(config):
        jax.jit(lambda x: held.append(x) or x)(np.float32(1))
        return build(config)

    def exploding(config):
        experiment = build(config)
        phases = [
            phase._replace(loss=run_toy.exploding(phase.loss, 3, 1))
            for phase in experiment.method.phases
        ]
        return experiment._replace(method=experiment.method._replace(phases=tuple(phases)))

    def dividing(config):
        jax.numpy.zeros(1) / jax.numpy.zeros(1)
        return build(config)

    try:
        with pytest.raises(FloatingPointError, match="nan"):
            run(tmp_path / "toy", "--debug_nans", build=dividing)
        with pytest.raises(FloatingPointError, match=r"^invalid value"):
            run(tmp_path / "late", "--debug_nans", build=exploding)
        with pytest.raises(Exception, match=r"[Ll]eaked"):
            run(tmp_path / "toy", "--debug_leaks", build=leaking)
        debugged = "--debug_nans", "--debug_leaks"
        run(tmp_path / "toy", *debugged, "--config.num_epochs=1", measured=nothing)
    finally:
        jax.config.update("jax_debug_nans", before[0])
        jax.config.update("jax_check_tracer_leaks", before[1])


def test_results_say_what_they_are(finished):
    rows = json.loads((finished / "results.json").read_text())
    assert [(row["name"], row["distance"]) for row in rows] == [
        ("dqn", "aqd"),
        ("dqn", "sqd"),
        ("dqn float", "float"),
        ("dqn validation", "aqd"),
        ("pq on pixels", "aqd"),
        ("untrained network", "aqd"),
        ("class-id code", "aqd"),
    ]
    for row in rows:
        assert row["metric"].startswith("map@all|ties=expected|den=capped|zero=0|dist=")
        assert 0 <= row["worst"] <= row["value"] <= row["best"] <= 1
        assert 0 < row["chance"] < 1
        assert row["split"] == toy.splits().digest
        assert row["low"] < row["value"] < row["high"]
        assert row["audit"]["rows"] == {"train": 256, "validation": 16, "query": 32, "database": 80}
        assert row["audit"]["shared_images"]["query in database"] == 0
    assert [row["bits"] for row in rows] == [8, 8, 256, 8, 8, 8, 2]
    assert [row["num_bytes"] for row in rows] == [1, 1, 32, 1, 1, 1, 1]


def test_two_runs_can_be_compared_query_by_query(finished, early):
    longer, shorter = (
        {(r.name, r.distance): r for r in evaluate.read_results(folder)}["dqn", "aqd"]
        for folder in (finished, early)
    )
    found = evaluate.compare(longer, shorter)
    assert found.difference == pytest.approx(longer.value - shorter.value, abs=1e-12)
    assert found.low < found.difference < found.high


@pytest.mark.slow  # tests/experiments/test_baselines.py looks at bits too
def test_baselines_follow_their_bits_and_split(finished, tmp_path, no_numbers):
    def shorter(config):
        return build(config)._replace(method=toy.dqn(num_codebooks=1))

    def chosen(*parts):
        found = baselines(*parts)
        return {name: found[name] for name in names}

    names = "pq on pixels", "untrained network"
    arguments = "--config.bits=4", "--config.num_epochs=0"
    run(tmp_path / "toy", *arguments, build=shorter, measured=chosen)
    rows, fewer = (
        {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
        for folder in (finished, tmp_path / "toy")
    )
    for name in names:
        assert fewer[name]["bits"] == 4
        assert fewer[name]["value"] != rows[name]["value"]
        assert rows[name]["chance"] < rows[name]["value"] < rows["dqn"]["value"]


def test_the_class_id_code_is_of_what_was_trained(finished, early):
    rows, sooner = (
        {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
        for folder in (finished, early)
    )
    assert sooner["class-id code"]["value"] < rows["class-id code"]["value"]
    assert sooner["untrained network"]["value"] == rows["untrained network"]["value"]
    assert rows["class-id code"]["distinct_codes"] == 4
    assert rows["class-id code"]["value"] > rows["pq on pixels"]["value"]


def several_labels(config):
    experiment = build(config)
    splits = experiment.splits
    image = splits.source[np.arange(len(splits.source))]["image"]
    label = splits.source.labels.copy()
    label[splits.train[:3], :2] = 1
    return experiment._replace(splits=splits._replace(source=data.from_arrays(image, label)))


def test_images_of_several_labels_have_no_class_id_code(tmp_path, capsys, no_numbers):
    run(tmp_path / "toy", "--config.num_epochs=0", build=several_labels)
    assert "class-id code: left out" in capsys.readouterr().out
    rows = json.loads((tmp_path / "toy" / "results.json").read_text())
    assert [row["name"] for row in rows][-2:] == ["pq on pixels", "untrained network"]


def test_a_second_start_trains_nothing_and_says_the_same(finished, capsys):
    def rows():
        found = json.loads((finished / "results.json").read_text())
        for row in found:  # of the files that the process has loaded: here those of other tests too
            del row["run"]["code"]
        return found

    before = rows()
    metrics = (finished / "metrics.jsonl").read_text()
    run(finished)
    assert rows() == before
    assert (finished / "metrics.jsonl").read_text() == metrics
    out = capsys.readouterr().out
    assert "map@all|ties=expected|den=capped|zero=0|dist=aqd" in out


def test_lines_of_progress_are_plain_without_a_terminal(tmp_path, capsys, no_numbers):
    run(tmp_path / "toy", "--config.num_epochs=1", measured=nothing)
    out = capsys.readouterr().out
    assert "step 4/4  epoch 1/1  loss" in out
    assert "\x1b" not in out


def test_another_config_is_refused_and_nothing_is_harmed(finished, capsys):
    def files():  # the lock, which names the process that wrote it, included
        return {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    before = files()
    with pytest.raises(SystemExit) as caught:
        run(finished, "--config.num_epochs=4", "--config.nested.depth=2")
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "nested.depth is 1 there, 2 here, num_epochs is 3 there, 4 here" in error
    assert error.count("\n") == 1
    assert files() == before


def leaking(config):
    experiment = build(config)
    splits = experiment.splits
    database = np.concatenate([splits.query[:5], splits.database])
    return experiment._replace(splits=splits._replace(database=database, name="leaking"))


def test_queries_in_the_database_are_refused_unless_allowed(tmp_path, capsys, no_numbers):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", "--config.num_epochs=0", build=leaking)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "5" in error
    assert "query" in error
    assert error.count("\n") == 1
    options = "--config.num_epochs=0", "--allow_query_overlap"
    run(tmp_path / "toy", *options, build=leaking, measured=nothing)
    assert "audit: 5 rows of query in database" in capsys.readouterr().out
    rows = json.loads((tmp_path / "toy" / "results.json").read_text())
    assert all(row["audit"]["shared_rows"]["query in database"] == 5 for row in rows)
    assert all(row["protocol"] == "leaking" for row in rows)


def test_another_place_of_the_data_is_the_same_experiment(early, tmp_path, no_numbers):
    shutil.copytree(early, tmp_path / "toy")
    places = "--config.data_dir=elsewhere", "--config.features_dir=elsewhere"
    run(tmp_path / "toy", "--config.num_epochs=1", *places, measured=nothing)


def test_the_lock_of_a_run_that_is_refused_stays_as_it_is(finished, capsys):
    (finished / ".lock").write_text("of somebody else")
    with pytest.raises(SystemExit):
        run(finished, "--config.num_epochs=4")
    assert "holds a run of 3 epochs, 4 are asked for" in capsys.readouterr().err
    other = build(get_config())._replace(config={"num_epochs": 4})
    with pytest.raises(errors.InputError, match="holds a run of another config"):
        train.fit(other, workdir=finished)
    assert (finished / ".lock").read_text() == "of somebody else"


def test_a_folder_of_other_things_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.bitz=16", "unknown key --config.bitz; did you mean --config.bits?"),
        ("--config.zzz=1", "unknown key --config.zzz; --help lists all"),
        ("--config.nested.dept=2", "did you mean --config.nested.depth?"),
        ("--config.bits=many", "invalid literal for int"),
        ("--wrokdir=x", "Unknown command line flag 'wrokdir'"),
        ("extra", "unexpected argument 'extra'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(tmp_path, capsys, argument, message):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", argument)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "toy").exists()


def test_help_lists_keys_and_defaults(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "--config.learning_rate=0.2" in out
    assert "--config.nested.depth=1" in out


def test_sigterm_saves_exits_75_and_the_same_command_goes_on(tmp_path, finished, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", build=lambda config: toy.interrupted(build(config)))
    assert caught.value.code == 75
    assert "stopped by SIGTERM at step" in capsys.readouterr().out
    assert not (tmp_path / "toy" / "results.json").exists()
    run(tmp_path / "toy")
    assert programs.rows_of(tmp_path / "toy") == programs.rows_of(finished)


@pytest.mark.parametrize("stage", ["announce", "table"])
def test_sigterm_outside_of_training_says_try_again_too(tmp_path, monkeypatch, stage, no_numbers):
    from quantjax.run import console

    told = getattr(console, stage)

    def interrupted(*arguments):
        told(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    patch = pytest.MonkeyPatch()
    patch.setattr(console, stage, interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", "--config.num_epochs=1", measured=nothing)
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    patch.undo()
    run(tmp_path / "toy", "--config.num_epochs=1", measured=nothing)
    assert (tmp_path / "toy" / "results.json").exists()


def test_a_workdir_whose_first_write_failed_is_free(tmp_path, no_numbers):
    (tmp_path / "toy" / "lost+found").mkdir(parents=True)
    (tmp_path / "toy" / ".config.json.1.tmp").write_text("{")
    run(tmp_path / "toy", "--config.num_epochs=0", measured=nothing)
    assert (tmp_path / "toy" / "results.json").exists()


def test_the_default_workdir_follows_the_config(tmp_path, monkeypatch, no_numbers):
    monkeypatch.chdir(tmp_path)
    elsewhere = ["--config.data_dir=x", "--config.features_dir=y"]
    for arguments in ([], ["--config.seed=1"], elsewhere):
        argv = ["toy", "--config.num_epochs=0", *arguments]
        launch.main(get_config, build, nothing, title="dqn", argv=argv)
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith("toy-") and len(name) == len("toy-") + 8 for name in names)


@pytest.mark.parametrize(("said", "due"), [(None, "home/quantjax"), ("/elsewhere", "/elsewhere")])
def test_programs_are_kept_in_the_users_cache_or_where_the_user_said(
    tmp_path, monkeypatch, said, due
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", said)
        with pytest.raises(SystemExit):
            run(tmp_path / "toy", "--config.num_epochs=-1")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / due)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


VARIANTS = {"short": {"num_epochs": 1, "seed": 4}, "long": {"num_epochs": 9}}


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        ([], (3, 0)),
        (["--variant=short"], (1, 4)),
        (["--keep", "2", "--variant", "short", "--config.seed=5"], (1, 5)),
        (["--config.num_epochs=2", "--variant=short"], (2, 4)),
    ],
)
def test_a_variant_is_what_other_settings_start_from(arguments, due, monkeypatch):
    seen = []
    monkeypatch.setattr(
        running, "run", lambda config, *_, **__: seen.append((config.num_epochs, config.seed))
    )
    argv = ["toy", *arguments]
    launch.main(get_config, build, baselines, title="dqn", variants=VARIANTS, argv=argv)
    assert seen == [due]


@pytest.mark.parametrize(
    ("variants", "message"),
    [(VARIANTS, "no variant 'shot'; there are short, long"), ({}, "there are none")],
)
def test_a_variant_that_does_not_exist_is_refused(variants, message, capsys):
    argv = ["toy", "--variant=shot"]
    with pytest.raises(SystemExit) as caught:
        launch.main(get_config, build, baselines, title="dqn", variants=variants, argv=argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_sweep_prints_commands_and_runs_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def swept(*arguments, sweep):
        argv = ["toy", "--sweep", *arguments]
        launch.main(get_config, build, baselines, title="dqn", sweep=sweep, argv=argv)

    swept("--keep=2", sweep=lambda: [{"bits": 8, "nested.depth": n} for n in (1, 2)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" --", 1)[1] for line in lines] == [
        "keep=2 --config.bits=8 --config.nested.depth=1",
        "keep=2 --config.bits=8 --config.nested.depth=2",
    ]
    assert list(tmp_path.iterdir()) == []
    for arguments, sweep, message in (
        ([], None, "has no sweep"),
        ([], lambda: [{"bitz": 8}], "unknown key bitz"),
        (["--workdir=x"], list, "need a workdir each"),
    ):
        with pytest.raises(SystemExit) as caught:
            swept(*arguments, sweep=sweep)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


ON_DATA = {"a": 0, "b": 1}
"""Data sets of a file, with the epochs of each."""


def on_data(*arguments, **options):
    """Launches a file with two data sets."""

    def get_config_of(data_set):
        config = get_config()
        config.num_epochs = ON_DATA[data_set]
        return config

    def build_on(config, data_set):
        return build(config)._replace(name=f"toy_{data_set}")

    parts = get_config_of, build_on, lambda *_: {}
    argv = ["toy", *arguments]
    launch.main(*parts, title="dqn", data_sets=ON_DATA, argv=argv, **options)


def test_the_first_argument_names_one_of_several_data_sets(tmp_path, capsys, no_numbers):
    on_data("a", f"--workdir={tmp_path / 'run'}", "--config.bits=8")
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (about["experiment"], about["config"]["num_epochs"]) == ("toy_a", 0)
    capsys.readouterr()
    on_data("b", "--keep=2", "--sweep", sweep=lambda: [{"bits": 8}])
    assert capsys.readouterr().out.endswith(" b --keep=2 --config.bits=8\n")
    with pytest.raises(SystemExit) as caught:
        on_data("b", "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("toy b [--OPTION=VALUE ...]")
    assert "--config.num_epochs=1" in out


@pytest.mark.parametrize("arguments", [[], ["c"], ["--help"], ["--sweep", "a"]])
def test_a_command_without_a_data_set_names_them(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        on_data(*arguments)
    assert caught.value.code == 2
    word = arguments[0] if arguments else ""
    assert capsys.readouterr().err == (
        f"error: the first argument must be one of the data sets a, b, got {word!r}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile=5"], "--profile takes START:STOP, steps with START < STOP, got '5'"),
        (["--profile=5:5"], "--profile takes START:STOP"),
        (["--keep=0"], "flag --keep=0: 0 is not a positive integer; --help lists all"),
        (["--checkpoint_every=0"], "--checkpoint_every=0: 0 is not a positive integer"),
        (["--validate_every=-1"], "--validate_every=-1: -1 is not a non-negative integer"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_of_a_cluster_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "toy", "--coordinator=127.0.0.1:1")
    assert caught.value.code == 1
    assert "go together; missing: num_processes, process_id" in capsys.readouterr().err


def test_validation_and_usage_are_recorded_after_epochs(tmp_path, capsys):
    settings = "--config.num_epochs=5", "--validate_every=2", "--keep=1"
    run(tmp_path / "toy", *settings, measured=nothing)
    found = programs.records_of(tmp_path / "toy")
    epochs = [each for each in found if "after_epoch" in each]
    assert [each["after_epoch"] for each in epochs] == list(range(5))
    assert "codebook_perplexity" not in epochs[0]  # before the first codebooks
    assert all(1 <= each["codebook_perplexity"] <= 16 for each in epochs[2:])
    values = {each["step"]: each["validation"] for each in epochs if "validation" in each}
    assert sorted(values) == [16, 20]
    rows = json.loads((tmp_path / "toy" / "results.json").read_text())
    (final,) = [row for row in rows if row["name"] == "dqn validation"]
    assert values[20] == final["value"]
    best = max(values, key=values.get)
    kept = {int(path.name) for path in (tmp_path / "toy" / "checkpoints").iterdir()}
    assert kept == {best, 20}
    assert "epoch 5/5  validation" in capsys.readouterr().out
