"""Messages of errors: the missing package and its command, and known names."""

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


def test_the_first_texts_are_shown_and_the_others_counted():
    assert errors.few("ab") == "a, b"
    assert errors.few("abcdefg") == "a, b, c, d, e and 2 more"
    assert errors.few(map(str, range(1503)), most=1) == "0 and 1,502 more"


def test_few_names_are_listed_in_full():
    assert errors.listed(("b", "a"), "c") == "b, a"
    assert errors.listed((), "c") == ""


def test_of_many_names_the_closest_are_listed():
    names = [f"method_{letter}_{data}" for letter in "abcdefghijklmn" for data in ("x", "y", "z")]
    text = errors.listed([*names, "csq_mnist"], "csq_mnits")
    assert text.startswith("csq_mnist")
    assert text.endswith(" more")
    # Of nothing alike the first.
    text = errors.listed(names, "###")
    assert text == f"{', '.join(names[:5])} and {len(names) - 5} more"
