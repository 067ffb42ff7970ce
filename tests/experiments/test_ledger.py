"""The ledger writes down what was run, chooses by validation alone, and goes on after a failure."""

import json
import math
import subprocess
import types

import numpy as np
import pytest
from ml_collections import config_dict

from experiments.ledger import __main__ as command
from experiments.ledger import entries, hypotheses, runs, tuning
from quantjax import data, errors
from quantjax.report.revision import commit
from tests import toy

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")


def get_config():
    return config_dict.create(
        seed=0, bits=8, num_codewords=16, num_epochs=2, quantization_weight=1e-4, data_dir="here"
    )


def build(config):
    if config.seed == 9:
        raise errors.InputError("seed 9 is of no use")
    if config.seed == 8:
        raise KeyError("num_codewords")
    method = toy.dqn(num_codebooks=config.bits // 4, quantization_weight=config.quantization_weight)
    return toy.experiment(method, num_epochs=config.num_epochs, seed=config.seed)


@pytest.fixture
def toy_file(monkeypatch):
    """An experiment file with an ablation, found as others are."""
    module = types.ModuleType("toy_file")
    contents = {"get_config": get_config, "build": build, "ABLATIONS": {"short": {"num_epochs": 1}}}
    module.__dict__.update(contents)
    monkeypatch.setattr(entries, "names", lambda: {"toy_file": ("toy_file",)})
    monkeypatch.setitem(__import__("sys").modules, "experiments.toy_file", module)
    return module


def run(name, tmp_path, **options):
    arguments = {"bits": [8], "seeds": [0, 1], "settings": {}, **options}
    runs.run(
        name,
        arguments.pop("bits"),
        arguments.pop("seeds"),
        workdir=tmp_path / "runs",
        results=tmp_path / "results",
        **arguments,
    )
    return json.loads((tmp_path / "results" / f"{name}.json").read_text())


def test_a_run_says_all_that_a_reader_must_know(toy_file, tmp_path):
    found = run("toy_file.short", tmp_path, settings={"data_dir": "elsewhere"})
    assert found["overrides"] == {"num_epochs": 1}
    assert [(each["bits"], each["seed"]) for each in found["runs"]] == [(8, 0), (8, 1)]
    one = found["runs"][1]
    assert one["config"]["num_epochs"] == 1
    assert one["config"]["seed"] == 1
    assert "data_dir" not in one["config"]
    assert one["split"] == toy.splits().digest
    assert one["audit"]["digest"] == toy.splits().digest
    assert {"device", "versions", "commit", "seconds", "cpu_seconds"} <= one.keys()
    assert [row["name"] for row in one["rows"]] == [
        "codes", "codes", "codes float", "codes validation"
    ]  # fmt: skip
    assert one["rows"][0]["metric"] == "map@all|ties=expected|den=capped|zero=0|dist=aqd"
    (summary,) = [
        row for row in found["summary"] if (row["name"], row["distance"]) == ("codes", "aqd")
    ]
    values = [each["rows"][0]["value"] for each in found["runs"]]
    assert summary["mean"] == pytest.approx(np.mean(values))
    # Two values: half their distance times the 97.5 % point of Student's t of one degree, 12.706.
    assert summary["half_width"] == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2)


def test_what_is_there_is_not_run_again(toy_file, tmp_path, monkeypatch):
    first = run("toy_file", tmp_path, seeds=[0])
    built = []
    monkeypatch.setattr(
        toy_file, "build", lambda config: built.append(config.seed) or build(config)
    )
    both = run("toy_file", tmp_path, seeds=[0, 1])
    assert built == [1]
    assert both["runs"][0] == first["runs"][0]
    again = run("toy_file", tmp_path, seeds=[0], again=True)
    assert built == [1, 0]
    assert [each["seed"] for each in again["runs"]] == [0, 1]


def test_a_failure_is_written_down_and_the_others_go_on(toy_file, tmp_path, capsys):
    found = run("toy_file", tmp_path, seeds=[0, 9, 8, 1])
    by_seed = {each["seed"]: each for each in found["runs"]}
    assert by_seed[9]["failed"] == "seed 9 is of no use"
    assert by_seed[8]["failed"] == "'num_codewords'"
    told = capsys.readouterr().err
    assert told.count("Traceback") == 1  # of the error that nobody raised on purpose
    assert 'raise KeyError("num_codewords")' in told
    assert {row["seeds"] for row in found["summary"]} == {2}


def test_missing_data_stop_the_command_and_leave_the_file_alone(toy_file, tmp_path, monkeypatch):
    first = run("toy_file", tmp_path, seeds=[0])

    def missing(config):
        raise FileNotFoundError("data folder toys not found")

    monkeypatch.setattr(toy_file, "build", missing)
    with pytest.raises(FileNotFoundError, match="toys not found"):
        run("toy_file", tmp_path, seeds=[0, 1])
    assert json.loads((tmp_path / "results" / "toy_file.json").read_text()) == first


def test_tuning_takes_the_best_by_validation_and_runs_use_it(toy_file, tmp_path, monkeypatch):
    seen = []

    def watched(config):
        experiment = build(config)
        seen.append((config.num_epochs, config.quantization_weight))
        return experiment

    monkeypatch.setattr(toy_file, "build", watched)
    tried = [{"num_epochs": 1}, {"num_epochs": 6}]
    monkeypatch.setattr(hypotheses, "SETTINGS", {"toy_file": tried})
    tuning.tune("toy_file", settings={}, results=tmp_path / "results", bits=8)
    written = json.loads((tmp_path / "results" / "tuning" / "toy_file.json").read_text())
    values = [trial["validation"] for trial in written["trials"]]
    assert values[1] > values[0]
    assert written["chosen"] == {"num_epochs": 6}
    found = run("toy_file", tmp_path, seeds=[0])
    assert found["chosen"] == {"num_epochs": 6}
    assert found["runs"][0]["config"]["num_epochs"] == 6
    assert [epochs for epochs, _ in seen] == [1, 6, 6]
    # An ablation that was not tuned takes what was chosen for the whole, but what it leaves out.
    monkeypatch.setitem(toy_file.ABLATIONS, "plain", {"quantization_weight": 0.0})
    assert run("toy_file.short", tmp_path, seeds=[0])["runs"][0]["config"]["num_epochs"] == 1
    plain = run("toy_file.plain", tmp_path, seeds=[0])["runs"][0]["config"]
    assert (plain["num_epochs"], plain["quantization_weight"]) == (6, 0.0)


def test_splits_for_tuning_hold_no_query():
    splits = toy.splits()
    carved = tuning.validation_only(splits)
    np.testing.assert_array_equal(carved.query, splits.validation)
    for rows in (carved.train, carved.query, carved.database):
        assert not np.intersect1d(rows, splits.query).size
    np.testing.assert_array_equal(carved.database, splits.validation_database)
    with pytest.raises(ValueError, match="no validation rows to choose by"):
        tuning.validation_only(data.protocols.final(splits))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("toys", {}, "no experiment toys; there are toy_file"),
        ("toy_file.long", {}, "toy_file has no ablation long; there are short"),
        ("toy_file", {"epochs": 3}, "toy_file has no setting epochs"),
        ("toy_file", {"num_epochs": "many"}, "num_epochs of toy_file is of int, got 'many'"),
    ],
)
def test_what_does_not_exist_is_refused(name, settings, message, toy_file, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(name, tmp_path, settings=settings)


def test_tuning_without_settings_is_refused(toy_file, tmp_path):
    with pytest.raises(ValueError, match="toy_file has no settings to try"):
        tuning.tune("toy_file", settings={}, results=tmp_path)


@pytest.mark.parametrize(
    ("key", "told"), [("bits", "give --bits"), ("seed", "seed 0"), ("num_epochs", "tuning tries")]
)
def test_a_setting_that_a_command_overwrites_is_refused(key, told, toy_file, tmp_path, monkeypatch):
    monkeypatch.setattr(hypotheses, "SETTINGS", {"toy_file": [{"num_epochs": 1}]})
    with pytest.raises(errors.InputError, match=f"--set {key} would be overwritten; .*{told}"):
        tuning.tune("toy_file", settings={key: 8}, results=tmp_path)
    if key != "num_epochs":
        with pytest.raises(
            errors.InputError, match=f"--set {key} would be overwritten; give --bits and"
        ):
            run("toy_file", tmp_path, settings={key: 8})


def test_every_experiment_is_found_and_configures():
    found = entries.names()
    assert {"dqn_mnist", "codes_fashion_mnist", "adsq_cifar10_features"} <= set(found)
    assert not {"dqn", "ledger", "task", "adsq", "codes"} & set(found)
    for name in found:
        module = entries.entry(name).module
        for ablation in ["", *getattr(module, "ABLATIONS", {})]:
            full = f"{name}.{ablation}" if ablation else name
            assert entries.configure(entries.entry(full), {"bits": 16}).bits == 16


def test_a_config_refuses_keys_that_it_has_not():
    for name in entries.names():
        config = entries.configure(entries.entry(name), {})
        with pytest.raises(AttributeError, match="bitz"):
            config.bitz = 3


def test_a_commit_with_a_file_that_is_not_in_it_is_marked(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    for folder in ("experiments", "quantjax"):
        (tmp_path / folder).mkdir()
    git("init")
    assert commit(tmp_path) == "unknown"
    (tmp_path / "quantjax" / "__init__.py").write_text("")
    git("add", "quantjax")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(*identity, "commit", "-m", "a")
    clean = commit(tmp_path)
    assert len(clean) == 7
    (tmp_path / "notes.txt").write_text("")
    assert commit(tmp_path) == clean
    (tmp_path / "experiments" / "new.py").write_text("")
    assert commit(tmp_path) == f"{clean}+"


def test_one_value_has_no_half_width():
    assert hypotheses.half_width([0.5]) is None
    # t of 2 degrees 4.3027, standard deviation .1, three values.
    due = 4.30265 * 0.1 / math.sqrt(3)
    assert hypotheses.half_width([0.4, 0.5, 0.6]) == pytest.approx(due, rel=1e-5)


A, B, C = "a", "x.b", "x.c"


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.51, 0.59], "supported"),
        ([0.4, 0.51, 0.59], [0.5, 0.6, 0.7], "refuted"),
        ([0.5, 0.6, 0.7], [0.6, 0.5, 0.7], "undecided"),
    ],
)
def test_a_pair_is_judged_seed_by_seed(a, b, verdict):
    values = {(A, "codes"): a, (B, "codes"): b}
    found, judged = hypotheses.better(A, B)(values)
    assert judged == verdict
    assert found.startswith(f"{np.mean(a) - np.mean(b):+.4f} (")


@pytest.mark.parametrize(("level", "verdict"), [(0.5, "supported"), (0.61, "undecided")])
def test_a_level_is_judged_by_the_mean(level, verdict):
    values = {(A, "codes"): [0.59, 0.6, 0.61]}
    assert hypotheses.above(A, level)(values)[1] == verdict


@pytest.mark.parametrize(
    ("real", "codes", "verdict"),
    [
        ((0.80, 0.80, 0.80), (0.79, 0.70, 0.75), "supported"),
        ((0.80, 0.80, 0.80), (0.79, 0.70, 0.795), "refuted"),
        ((0.80, 0.85, 0.80), (0.79, 0.70, 0.75), "refuted"),
    ],
)
def test_losing_less_counts_only_with_a_real_embedding_as_good(real, codes, verdict):
    noise = np.array([0.0, 0.001, -0.001])
    values = {
        (arm, role): list(level + factor * noise)
        for role, levels, factor in (("float", real, 1.0), ("codes", codes, 1.3))
        for arm, level in zip((A, B, C), levels, strict=True)
    }
    if verdict == "supported":
        values[B, "float"] = list(0.80 - noise)
        values[C, "float"] = list(0.80 - noise)
    found, judged = hypotheses.loses_less(A, (B, C))(values)
    assert judged == verdict
    assert found.startswith(f"drop {real[0] - codes[0]:.4f}; b: drop")


def test_each_side_of_a_hypothesis_may_try_as_many_settings():
    for each in hypotheses.HYPOTHESES:
        trained = [arm for arm in each.arms if not arm.startswith("codes_")]
        assert {len(hypotheses.SETTINGS[arm]) for arm in trained} == {6}
        for arm in trained:
            keys = [frozenset(tried) for tried in hypotheses.SETTINGS[arm]]
            assert len(set(keys)) == 1
            assert len({json.dumps(tried) for tried in hypotheses.SETTINGS[arm]}) == 6


def test_values_are_those_of_the_row_and_length_asked_for(tmp_path):
    def row(name, distance, value):
        return {"name": name, "distance": distance, "value": value}

    rows = [
        row("codes", "aqd", 0.1),
        row("codes", "sqd", 0.2),
        row("codes float", "float", 0.3),
        row("codes validation", "aqd", 0.4),
        row("pq", "aqd", 0.5),
    ]
    runs = [
        {"bits": 32, "seed": 0, "rows": rows},
        {"bits": 32, "seed": 1, "failed": "no"},
        {"bits": 16, "seed": 0, "rows": rows},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"runs": runs}))
    found = hypotheses.values_of(tmp_path, ["a", "a/pq"])
    assert found[("a", "codes")] == [0.1]
    assert found[("a", "float")] == [0.3]
    assert found[("a/pq", "codes")] == [0.5]
    with pytest.raises(FileNotFoundError):
        hypotheses.values_of(tmp_path, ["b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing_like_this"], "no experiment nothing_like_this; there are "),
        (["toy_file", "--set", "num_epochs"], "--set takes KEY=VALUE, got 'num_epochs'"),
        (["toy_file", "--set", "num_epochs=many"], "num_epochs of toy_file is of int, got 'many'"),
    ],
)
def test_commands_complain_in_a_line(arguments, message, toy_file, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["run", *arguments])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_settings_of_the_command_line_are_values_and_words(toy_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    seen = []
    monkeypatch.setattr(runs, "run", lambda *_, settings, **__: seen.append(settings))
    command.main(["run", "toy_file", "--set", "num_epochs=3", "data_dir=a/b=c", "hidden=(8, 4)"])
    assert seen == [{"num_epochs": 3, "data_dir": "a/b=c", "hidden": (8, 4)}]
