"""`quantjax export` writes for each engine, and says what was found."""

import json

import numpy as np
import pytest

from quantjax import cli, index
from quantjax.commands.export import ENGINES
from tests.engines.databases import codec_of, database


@pytest.fixture
def folder(rng, tmp_path):
    kept = database(codec_of("product", rng), rng, ids="names")
    index.save(tmp_path / "index", kept.codec, kept.codes, ids=kept.ids)
    return tmp_path / "index"


def test_json_is_one_object_and_alone(folder, tmp_path, capsys):
    pytest.importorskip("faiss")
    out = tmp_path / "new" / "codes.faiss"
    cli.main(["export", str(folder), "--to=faiss", "-o", str(out), "--json"])
    result = json.loads(capsys.readouterr().out)
    usage = f"faiss.read_index({str(out)!r}).search(queries, 10)"
    files = [str(out), f"{out}.ids.txt"]
    due = {"engine": "faiss", "count": 300, "bits": 12, "files": files, "recall": 1}
    assert result == due | {"usage": usage}


def test_lines_for_people(folder, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    cli.main(["export", str(folder), "--to=npz", "-o", str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f"300 codes of 12 bits are in {out}",
        f"numpy.load({str(out)!r})['codes']",
    ]
    np.testing.assert_array_equal(np.load(out)["codes"], index.load(folder).codes)


@pytest.mark.parametrize(
    "engine", sorted(set(ENGINES) - {"npz", "faiss", "lancedb", "qdrant", "cuvs"})
)
def test_codes_that_an_engine_cannot_hold_are_one_line(engine, folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        cli.main(["export", str(folder), f"--to={engine}", "-o", str(tmp_path / "out")])
    due = (
        f"error: {engine} takes the codes of BinaryCodec, got ProductCodec; export to npz instead\n"
    )
    assert capsys.readouterr().err == due


def test_fast_scan_is_for_faiss(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        cli.main(["export", str(folder), "--to=npz", "-o", str(tmp_path / "out"), "--fast_scan"])
    assert capsys.readouterr().err == "error: --fast_scan is for --to=faiss, got --to=npz\n"
