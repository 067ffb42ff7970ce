"""`quantjax runs` lists runs with what differs between them, and compares two."""

import csv
import io
import json
import os
import sys

import pytest

from quantjax import cli, evaluate
from quantjax.run import workdirs
from tests.evaluate.cases import measured

WRITTEN = 1_790_000_000  # seconds: 2026-09-21T14:13:20 in UTC


def make(folder, *, epochs, kinds=(), **settings):
    """A folder as a run of 5 epochs leaves it: its config, records and results."""
    folder.mkdir(parents=True)
    config = {"bits": 16, "num_epochs": 5, "data_dir": str(folder), **settings}
    workdirs.write_config(folder, {"experiment": "dqn_mnist", "config": config})
    records = [{"step": 4 * n + 4, "epoch": n, "after_epoch": n} for n in range(epochs)]
    records.append({"step": 4 * epochs + 1, "epoch": epochs, "loss": 1.0})  # not ended
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    os.utime(folder / "metrics.jsonl", (WRITTEN, WRITTEN))
    if kinds:
        results = [measured(kind, name=kind.partition(" ")[0]) for kind in kinds]
        evaluate.write_results(folder, results, {"seed": 0})
    return folder


@pytest.fixture
def sweep(tmp_path):
    make(tmp_path / "runs" / "a", epochs=5, kinds=["product l2", "float"])
    make(tmp_path / "runs" / "b", epochs=5, kinds=["binary"], bits=32)
    make(tmp_path / "runs" / "c", epochs=2, bits=48, net={"depth": 2})
    make(tmp_path / "runs" / "d", epochs=5, bits=48, net={"depth": 3})
    (tmp_path / "runs" / "notes.txt").write_text("dear")
    (tmp_path / "runs" / "empty").mkdir()
    return tmp_path / "runs"


def run(capsys, *arguments):
    cli.main(["runs", *map(str, arguments)])
    return capsys.readouterr().out


def test_a_folder_of_runs_is_a_table_of_what_differs(sweep, capsys):
    lines = run(capsys, sweep).splitlines()
    first, second = measured("product l2").numbers[0], measured("binary").numbers[0]
    cells = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in line if cell] for line in cells]
    assert cells == [
        ["run", "result (95 % interval)", "status", "bits", "net.depth"],
        ["a", f"mAP {first.words}", "finished", "16", "-"],
        ["b", f"mAP {second.words}", "finished", "32", "-"],
        ["c", "-", "unfinished, 2 of 5 epochs at 2026-09-21T14:13:20+00:00", "48", "2"],
        ["d", "-", "not measured", "48", "3"],
        [f"metrics: {first.metric}, {second.metric}"],
    ]


def test_a_reader_that_goes_ends_no_command(sweep, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        cli.main(["runs", str(sweep), "--csv"])


def test_json_has_every_setting_and_result(sweep, capsys):
    # As a shell expands runs/*, with what is no run.
    found = json.loads(run(capsys, *sorted(sweep.iterdir()), "--json"))
    assert found["differing"] == ["bits", "net.depth"]
    assert found["differences"] == []
    a, _, c, _ = found["runs"]
    assert a["run"] == "a"
    assert a["workdir"] == str(sweep / "a")
    assert a["config"] == {"bits": 16, "num_epochs": 5}
    assert a["results"] == json.loads((sweep / "a" / "results.json").read_text())
    assert (c["status"], c["epochs"], c["num_epochs"]) == ("unfinished", 2, 5)
    assert (c["written"], c["results"]) == ("2026-09-21T14:13:20+00:00", [])


def test_a_number_of_edited_code_is_marked(sweep, capsys):
    path = sweep / "b" / "results.json"
    rows = [{**row, "run": {"changed_code": ["loss.py"]}} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    lines = run(capsys, sweep).splitlines()
    assert "finished, measured by other code  " in lines[2]
    assert "other code" not in lines[1]


def test_csv_has_a_line_for_each_result_and_for_a_run_without_any(sweep, capsys):
    rows = [*csv.DictReader(io.StringIO(run(capsys, sweep, "--csv")))]
    assert [(row["run"], row["name"], row["config.bits"], row["status"]) for row in rows] == [
        ("a", "product", "16", "finished"),
        ("a", "float", "16", "finished"),
        ("b", "binary", "32", "finished"),
        ("c", "", "48", "unfinished"),
        ("d", "", "48", "not measured"),
    ]
    assert float(rows[0]["value"]) == measured("product l2").value
    assert rows[0]["bits"] == str(measured("product l2").bits)


def test_two_runs_are_compared_query_by_query(tmp_path, capsys):
    ours = make(tmp_path / "x" / "run", epochs=5, kinds=["product l2", "float"])
    theirs = make(tmp_path / "y" / "run", epochs=5, kinds=["residual"], seed=1)
    due = evaluate.compare(measured("residual"), measured("product l2"))
    lines = run(capsys, ours, theirs).splitlines()
    assert lines[1].startswith("x/run  mAP ")
    assert lines[1].endswith("  -")  # it has no seed
    assert lines[-2] == "y/run minus x/run, query by query (95 % interval):"
    assert lines[-1] == (
        f"residual, real query, codes: mAP {due.difference:+.4f} ({due.low:+.4f} to "
        f"{due.high:+.4f}), p {due.p_value:.4f}"
    )
    found = json.loads(run(capsys, ours, theirs, "--json"))
    assert found["differences"] == [{"name": "residual", "distance": "aqd", **due._asdict()}]


def test_other_queries_are_not_compared(tmp_path, capsys):
    ours = make(tmp_path / "a", epochs=5, kinds=["product l2"])
    theirs = make(tmp_path / "b", epochs=5, kinds=["product l2"])
    rows = json.loads((theirs / "results.json").read_text())
    (theirs / "results.json").write_text(json.dumps([{**rows[0], "task_digest": "other"}]))
    assert "not compared: a paired comparison needs the same queries" in run(capsys, ours, theirs)


def test_a_damaged_run_hides_no_other(sweep, capsys):
    (sweep / "a" / "config.json").write_text("[")
    (sweep / "b" / "results.json").write_text('[{"name": 3}]')
    lines = run(capsys, sweep).splitlines()
    assert f"damaged: cannot read {sweep}/a/config.json: " in lines[1]
    assert f"damaged: {sweep}/b holds no results that belong together: " in lines[2]
    assert "unfinished, 2 of 5 epochs" in lines[3]


def test_runs_of_quantjax_train_and_of_other_experiments_are_listed(tmp_path, capsys):
    make(tmp_path / "a", epochs=5, kinds=["product l2"])
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "config.json").write_text('{"experiment": "photos"}')
    lines = run(capsys, tmp_path).splitlines()
    assert lines[2].split() == ["photos", "photos", "-", "unfinished"]
    # A setting that one of the experiments does not have is no difference.
    make(tmp_path / "b", epochs=5, net={"depth": 2})
    evaluate.write_results(photos, [measured("binary")], {})
    lines = run(capsys, tmp_path).splitlines()
    assert lines[0].endswith("  status")
    assert lines[3].endswith("  finished")


@pytest.mark.parametrize(
    ("name", "message"),
    [("elsewhere", "there is no folder {}/elsewhere"), ("empty", "no run in {}/empty; name")],
)
def test_a_folder_of_no_run_is_one_line(sweep, capsys, name, message):
    with pytest.raises(SystemExit) as caught:
        run(capsys, sweep / name)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(sweep)}")
    assert error.count("\n") == 1
