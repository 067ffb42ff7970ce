"""A run's page has every figure, or says why not; several runs are compared."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantjax import cli, data, evaluate, methods, models, report
from quantjax.report import figures
from tests import toy
from tests.report import runs

FIGURES = (
    "training", "precision-recall", "precision-at", "distances", "usage", "projection", "confusion",
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The workdir of a toy experiment, and what was trained and measured there."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    return workdir, runs.measured(workdir, toy.experiment(toy.dqn(), num_epochs=1))


@pytest.fixture(scope="module")
def small(measured):
    """A run on the toy set, without its page."""
    workdir, parts = measured
    return runs.kept(workdir, *parts)


@pytest.fixture
def run(small, tmp_path):
    """A copy of the run on the toy set, to be damaged."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture
def undrawn(monkeypatch):
    """Makes the plots of pages, and draws none of them, which takes most of the time."""
    monkeypatch.setattr(figures, "_svg", lambda *_: "<svg></svg>")


def sections(page):
    """Returns the markup of each section of a page, by name."""
    found = re.findall(r'<section id="([\w-]+)">(.*?)</section>', page, flags=re.S)
    return dict(found)


def test_the_page_of_the_main_job_has_every_figure(digits):
    page = (digits / report.PAGE).read_text()
    found = sections(page)
    for name in FIGURES:
        assert "<svg" in found[name], found[name][:500]
        assert "Not drawn" not in found[name]
        assert 'role="img" aria-label="' in found[name]
    assert found["examples"].count("<img") == 3 * 4 * 9
    assert "Worst queries" in found["examples"]
    assert found["per-class"].count("<tr>") == 11
    assert len(page) < 5e6
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "https://" not in page


def test_the_page_says_what_came_out_first(digits):
    page = (digits / report.PAGE).read_text()
    row = json.loads((digits / "results.json").read_text())[0]
    lead = re.search(r'<p class="lead">(.*?)</p>', page, flags=re.S)
    assert lead is not None
    assert f"mAP {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in lead[1]
    assert f"A random order gets {row['chance']:.3f}" in lead[1]
    assert row["metric"] in page
    assert "num_codewords" in page  # config
    facts = sections(page)["facts"]
    for name in ("protocol", "split", "seed", "commit", "command", "wall time", "versions"):
        assert f'<th scope="row">{name}</th>' in facts
    assert "No overlaps, no equal images" in page


def test_what_is_kept_is_what_was_measured(digits):
    kept = report.read(digits).arrays
    rows = json.loads((digits / "results.json").read_text())
    queries = kept["per_class/queries"]
    assert queries @ kept["per_class/value"] / queries.sum() == pytest.approx(rows[0]["value"])
    assert kept["usage/counts"].sum(axis=1).tolist() == [rows[0]["num_database"]] * 4
    np.testing.assert_allclose(kept["confusion/share"].sum(axis=1), 1, rtol=1e-5)
    cuts = kept["curves/cuts"]
    assert cuts[-1] == rows[0]["num_database"]
    assert kept["curves/precision_value"][-1] == pytest.approx(rows[0]["chance"], abs=0.02)
    assert kept["curves/recall_value"][-1] == pytest.approx(1)
    values = kept["examples/value"].reshape(3, 4)
    assert values[0].min() > values[1].max() > values[1].min() > values[2].max()
    near = kept["examples/distances"]
    assert (np.diff(near, axis=1) >= 0).all()


def test_a_page_is_drawn_again_from_the_workdir_alone(digits, tmp_path, capsys):
    copy = shutil.copytree(digits, tmp_path / digits.name)
    (copy / report.PAGE).unlink()
    cli.main(["report", str(copy)])
    assert str(copy / report.PAGE) in capsys.readouterr().out.replace("\n", "")
    page = (digits / report.PAGE).read_text()
    assert (copy / report.PAGE).read_text() == page.replace(str(digits), str(copy))


@pytest.mark.parametrize("name", ["examples", "curves", "usage", "projection"])
@pytest.mark.usefixtures("undrawn")
def test_a_figure_that_fails_costs_itself_alone(name, run, measured, monkeypatch):
    def fail(run):
        raise RuntimeError(f"no {name} today")

    monkeypatch.setitem(report.kept._MEASURED, name, fail)
    _, parts = measured
    report.keep(run, *parts)
    page = report.write(run).read_text()
    assert f"RuntimeError: no {name} today" in page
    assert page.count("<svg") >= len(FIGURES) - 2


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_an_older_version_says_so(run):
    (run / report.KEPT).unlink()
    found = sections(report.write(run).read_text())
    assert "is of an older version" in found["precision-recall"]
    assert "is of an older version" in found["examples"]
    assert "<svg" in found["training"]


@pytest.mark.usefixtures("undrawn")
def test_damaged_arrays_are_named(run):
    (run / report.KEPT).write_bytes(b"no such format")
    assert "report.safetensors is damaged" in report.write(run).read_text()


def test_without_matplotlib_the_page_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = report.write(run).read_text()
    assert "pip install &#39;quantjax[plots]&#39;" in page
    assert "<svg" not in page
    assert 'class="lead"' in page


@pytest.mark.usefixtures("undrawn")
def test_losses_that_are_not_finite_are_left_out(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"loss": None, "validation": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.write(run).exists()
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl holds no record" in report.write(run).read_text()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_features_alone_have_names_in_place_of_pictures(tmp_path):
    splits = toy.splits()
    rows = np.arange(len(splits.source))
    x = splits.source[rows]["image"].reshape(len(rows), -1).astype(np.float32) / 255
    source = data.from_features(x, splits.source.labels)
    method = methods.dqn(
        models.mlp(x.shape[1:], hidden=(8,), dim=8), dim=8, num_codebooks=2, num_codewords=16,
        inputs=methods.features,
    )  # fmt: skip
    made = toy.experiment(method, num_epochs=1)
    made = made._replace(splits=splits._replace(source=source), preprocess=lambda batch: batch)
    page = report.write(runs.finished(tmp_path / "run", made)).read_text()
    assert "names stand in their place" in page
    assert "<img" not in page


@pytest.mark.slow
def test_two_classes_and_one_query_are_reported(tmp_path):
    splits = toy.splits()
    rows = np.arange(len(splits.source))
    source = data.from_arrays(splits.source[rows]["image"], rows % 2)
    few = splits._replace(source=source, query=splits.query[:1])
    made = toy.experiment(toy.dqn(), num_epochs=1)._replace(splits=few)
    page = report.write(runs.finished(tmp_path / "run", made)).read_text()
    assert "over 1 queries" in page
    assert "Worst queries" not in page


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_measured_nothing_is_reported(run, measured):
    reason = "nothing is measured: there is one class"
    _, (made, state, retrieval) = measured
    runs.kept(run, made, state, retrieval._replace(results=[], unmeasured=(reason,)))
    found = sections(report.write(run).read_text())
    assert reason in found["examples"]
    assert reason in found["precision-recall"]
    assert "<svg" in found["projection"]
    assert "Nothing was measured." in (run / report.PAGE).read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_source_without_classes_is_reported(run, measured):
    _, (made, state, _) = measured
    source = toy.splits().source
    columns = {k: v for k, v in source.columns.items() if k != "label"}
    made = made._replace(splits=made.splits._replace(source=data.from_arrays(**columns)))
    retrieval = evaluate.evaluate_method(made, state, name="toy")
    found = sections(report.write(runs.kept(run, made, state, retrieval)).read_text())
    assert "has a label" in found["precision-recall"]
    assert "<svg" in found["usage"]
    assert "<svg" in found["projection"]


@pytest.mark.slow
def test_a_thousand_classes_are_a_picture_and_a_cut_table(run, rng):
    kept = report.read(run)
    names = [f"class {i}" for i in range(1000)]
    arrays = {
        **kept.arrays,
        "confusion/share": rng.random((1000, 1000), np.float32) / 1000,
        "per_class/value": rng.random(1000),
        "per_class/queries": np.ones(1000, np.int64),
    }
    metadata = {"about": json.dumps({"classes": names}), "missing": "{}"}
    save_file(arrays, run / report.KEPT, metadata)
    page = report.write(run).read_text()
    found = sections(page)
    assert "<svg" in found["confusion"]
    assert "The 15 worst and the 15 best of 1,000 classes." in found["per-class"]
    assert found["per-class"].count("<tr>") == 31
    assert len(page) < 5e6


def test_runs_are_compared_query_by_query(digits, tmp_path, capsys):
    one, other = (shutil.copytree(digits, tmp_path / name) for name in ("one", "other"))
    config = json.loads((other / "config.json").read_text())
    config["config"]["num_epochs"] = 3
    (other / "config.json").write_text(json.dumps(config))
    out = tmp_path / "page.html"
    cli.main(["report", str(one), str(other), "--out", str(out)])
    page = out.read_text()
    found = sections(page)
    assert "other minus one" in found["tests"]
    assert "<td>mAP</td>" in found["tests"]
    for name, colour in (("one", "#0072b2"), ("other", "#e69f00")):
        assert f">{name}</text>" in found["precision-recall"]
        assert f"stroke: {colour}" in found["precision-recall"]
    for name in ("precision-recall", "validation", "loss"):
        # Black text would vanish on a dark page.
        text = re.findall(r"<text.*?>", found[name])
        assert text
        assert all("currentColor" in each for each in text), name
    assert "real query, codes" in found["tests"]
    assert "num_epochs" in found["settings"]
    assert "seed" not in found["settings"]


def test_runs_of_other_tasks_are_not_compared(digits, run, tmp_path):
    page = report.compare([digits, run], tmp_path / "page.html").read_text()
    tests = sections(page)["tests"]
    assert "not compared: " in tests or "No two results" in tests
    (run / "report.safetensors").unlink()
    (run / "metrics.jsonl").unlink()
    found = sections(report.compare([digits, run], tmp_path / "page.html").read_text())
    assert f"Not kept by {run.name}." in found["precision-recall"]
    assert f"Not logged by {run.name}." in found["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "there is no folder nowhere"),
        (["report", "."], "has no results.json; has the run come to its end?"),
        (["report", "nowhere", "nowhere"], "takes two different workdirs or more"),
        (["report", "nowhere", "--out", "x.html"], "--out is for a comparison"),
    ],
)
def test_what_holds_no_run_is_refused_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 1
    assert message in capsys.readouterr().err


def test_names_are_the_shortest_ends_of_paths_that_differ(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert report.short_names(paths) == ["a/run", "b/run"]
    assert figures.KINDS[0] == "best"
