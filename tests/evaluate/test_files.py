"""What is read is what was written, and damaged files say so."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantjax import evaluate
from quantjax.metrics import measures
from tests.evaluate.cases import measured


@pytest.fixture(scope="module")
def results():
    asked = [measures.average_precision(), measures.empty_balls(radius=0)]
    return [measured("binary", measures=asked), measured("product ip", name="plain")]


@pytest.fixture
def folder(tmp_path, results):
    evaluate.write_results(tmp_path, results, {"seed": 3})
    return tmp_path


def test_results_come_back_whole(folder, results):
    for got, want in zip(evaluate.read_results(folder), results, strict=True):
        assert str(got) == str(want)
        assert got.per_query.keys() == want.per_query.keys()
        for metric, values in want.per_query.items():
            np.testing.assert_array_equal(got.per_query[metric], values)
        assert np.isnan(got.seconds)
        assert evaluate.compare(got, want).difference == 0
        plain = {"numbers": (), "per_query": {}, "seconds": 0}
        assert got._replace(**plain) == want._replace(**plain)
    assert all(row["seed"] == 3 for row in json.loads((folder / "results.json").read_text()))
    assert {path.name for path in folder.iterdir()} == {"results.json", "per_query.safetensors"}


def test_results_of_one_name_stay_apart(tmp_path):
    due = [measured("product ip"), measured("product ip", moved=True)]
    evaluate.write_results(tmp_path, due, {})
    got = evaluate.read_results(tmp_path)
    assert [each.numbers for each in got] == [each.numbers for each in due]


def test_rows_keep_their_own_keys(tmp_path, results):
    with pytest.raises(ValueError, match="about must not have the keys of rows, got name, value"):
        evaluate.write_results(tmp_path, results, {"value": 1.0, "name": "mine"})


def test_an_unfinished_run_has_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results.json; has the run come to its end\?"):
        evaluate.read_results(tmp_path)


def change_values(folder, change):
    path = folder / "per_query.safetensors"
    save_file({name: change(values) for name, values in load_file(path).items()}, path)


def change_rows(folder, **fields):
    path = folder / "results.json"
    path.write_text(json.dumps([{**row, **fields} for row in json.loads(path.read_text())]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "results.json").write_text("[{"),
        lambda folder: (folder / "results.json").write_text("[{}]"),
        lambda folder: (folder / "per_query.safetensors").write_bytes(b"PK"),
        lambda folder: save_file({"0": np.zeros(3)}, folder / "per_query.safetensors"),
        lambda folder: save_file(
            {str(i): np.zeros(3) for i in range(3)}, folder / "per_query.safetensors"
        ),
        lambda folder: change_values(folder, lambda values: values + 1),
        lambda folder: change_values(folder, lambda values: values.astype(np.uint8)),
        lambda folder: change_values(folder, lambda values: values * np.nan),
        lambda folder: change_rows(folder, value="abc"),
        lambda folder: change_rows(folder, metric=7),
        lambda folder: change_rows(folder, num_database="x"),
        lambda folder: change_rows(folder, zeros=None),
    ],
)
def test_damaged_files_are_refused(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match="holds no results that belong together"):
        evaluate.read_results(folder)
