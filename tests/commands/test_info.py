"""`quantjax info` says what a folder holds."""

import json

import numpy as np
import pytest

from quantjax import cli, index
from quantjax.quantizers import BinaryCodec


def run(capsys, *arguments):
    cli.main(["info", *map(str, arguments)])
    return capsys.readouterr().out


def test_an_index(tmp_path, capsys):
    index.save(tmp_path, BinaryCodec(12), np.zeros((3, 2), np.uint8))
    found = json.loads(run(capsys, tmp_path, "--json"))
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert found == {
        "codes": 3,
        "codec": "<BinaryCodec of 12 bits: num_bits 12>",
        "bits": 12,
        "bytes of a code": 2,
        "metric": "hamming",
        "bytes on disk": sizes,
    }
    assert run(capsys, tmp_path).splitlines()[0] == "codes: 3"


def test_results_of_a_run(tmp_path, capsys):
    rows = [{"name": "dqn", "metric": "map@all", "value": 0.98765}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert run(capsys, tmp_path).splitlines()[0] == "dqn map@all: 0.9877"
    (tmp_path / "results.json").write_text("[")
    with pytest.raises(SystemExit):
        run(capsys, tmp_path)
    assert capsys.readouterr().err.startswith(f"error: cannot read {tmp_path}/results.json: ")


def test_nothing_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(capsys, tmp_path)
    due = f"error: {tmp_path} has no codes, encoder or results; name a folder that has\n"
    assert capsys.readouterr().err == due
