"""An error for a missing package names the package and the command that installs it."""

import sys

import pytest

from quantjax import errors


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"a frame needs pandas.*'quantjax\[notebook\]'"):
        errors.load_package("pandas", extra="notebook", purpose="a frame")


def test_a_package_that_is_there_is_imported():
    assert errors.load_package("json", extra="none", purpose="a test").loads("1") == 1


def test_a_package_that_fails_inside_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        errors.load_package("broken_package", extra="none", purpose="a test")
