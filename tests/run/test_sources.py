"""Digests are of the user's and the package's loaded files, and name no place of the machine."""

import hashlib
import importlib
import sys
import types

import pytest

from quantjax.errors import InputError
from quantjax.run import processes, sources
from tests import programs


def test_own_files_are_digested_and_installed_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    installed = tmp_path / "lib" / "site-packages"
    (tmp_path / "lab" / "losses").mkdir(parents=True)
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    for file in ("lab/__init__.py", "lab/losses/__init__.py", "lab/losses/pairs.py"):
        (tmp_path / file).write_text(f"# {file}\n")
    (installed / "of_a_shop.py").write_text("")
    for name in ("lab.losses.pairs", "of_a_shop"):
        importlib.import_module(name)
    found = sources.digests()
    for file in ("lab/__init__.py", "lab/losses/__init__.py", "lab/losses/pairs.py"):
        assert found[file] == hashlib.sha256(f"# {file}\n".encode()).hexdigest()[:16]
    root = programs.ROOT / "quantjax/run/sources.py"
    assert found["quantjax/run/sources.py"] == hashlib.sha256(root.read_bytes()).hexdigest()[:16]
    assert not {"of_a_shop.py", "os.py", "jax/__init__.py", "hashlib.py"} & found.keys()
    # An experiment that is installed counts too, by its `build`.
    assert "of_a_shop.py" in sources.digests("of_a_shop")
    (tmp_path / "lab" / "losses" / "pairs.py").unlink()
    assert "lab/losses/pairs.py" not in sources.digests()
    for name in ("lab", "lab.losses", "lab.losses.pairs", "of_a_shop"):
        del sys.modules[name]


def test_the_program_itself_is_named_by_its_module_or_its_file(tmp_path, monkeypatch):
    file = tmp_path / "train.py"
    file.write_text("")
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    typed = sources.digests("__main__")  # into a notebook, or after -c
    main.__file__, main.__spec__ = str(file), None
    assert sources.digests("__main__").keys() - typed.keys() == {"train.py"}
    main.__spec__ = importlib.machinery.ModuleSpec("lab.train", None)
    assert sources.digests("__main__").keys() - typed.keys() == {"lab/train.py"}


def test_files_that_only_one_side_has_loaded_do_not_count():
    before, now = {"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "1", "d": "1"}
    assert sources.changed(before, now) == ["a"]


def test_equal_files_have_one_digest_in_any_order():
    assert sources.combined({"a": "1", "b": "2"}) == sources.combined({"b": "2", "a": "1"})
    assert sources.combined({"a": "1", "b": "2"}) != sources.combined({"a": "2", "b": "1"})


def test_processes_of_other_code_are_refused(monkeypatch):
    here = {"a.py": "1", "b.py": "1"}
    sources.check_same(here)
    monkeypatch.setattr(processes, "from_first", lambda function: {**function(), "b.py": "2"})
    monkeypatch.setattr(processes, "number", lambda: 1)
    with pytest.raises(InputError, match=r"^process 1 runs other code than process 0 \(b.py\); up"):
        sources.check_same(here)
    monkeypatch.setattr(processes, "from_first", lambda function: function())
    monkeypatch.setattr(processes, "all_agree", lambda number: 1)
    with pytest.raises(InputError, match=r"^another process runs other code than process 0; upda"):
        sources.check_same(here)
