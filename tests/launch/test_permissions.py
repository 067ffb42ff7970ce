"""A colleague can read all that a run leaves, if the umask lets them."""

import os
import stat

import pytest

from quantjax import index, report
from tests import toy
from tests.launch.test_provenance import run

pytestmark = pytest.mark.usefixtures("one_device", "no_numbers")


@pytest.mark.parametrize("umask", [0o007, 0o022], ids=oct)
@pytest.mark.by_default("0o7")
def test_every_file_of_a_run_and_of_an_index_obeys_the_umask(umask, tmp_path, monkeypatch):
    if umask == 0o007:  # figures of the page take as long as all the rest
        monkeypatch.setattr(report, "draw", lambda _: [])
    before = os.umask(umask)
    try:
        run(tmp_path / "run", "--validate_every=1", "--tensorboard")
        found = index.load(tmp_path / "run")
        index.save(
            tmp_path / "index", found.codec, found.codes, ids=found.ids, encoder=tmp_path / "run"
        )
        index.append(tmp_path / "index", found.codes[:1], ids=[len(toy.splits().source)])
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path).as_posix() for path in files}
    assert {
        "run/.lock", "run/stretches.json", "run/results.json", "run/per_query.safetensors",
        "run/codes-1.safetensors", "run/encoder/encoder.json", "run/report.html",
        "index/codes-2.safetensors", "index/encoder/encoder.json",
    } <= names  # fmt: skip
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert {path: oct(mode) for path, mode in modes.items() if mode != 0o666 & ~umask} == {}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folders}
    assert {path: oct(mode) for path, mode in modes.items() if mode != 0o777 & ~umask} == {}
