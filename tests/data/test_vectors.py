"""Vectors are read as they were written, mapped and not copied, and damage is one line."""

import struct

import numpy as np
import pytest

from quantjax.data import read_npy, read_vectors
from quantjax.data.vectors import _LOOKED_AT

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")


def rows_of(x, kind):
    """Writes row by row, as the authors of BigANN describe their files."""
    return b"".join(struct.pack(f"<i{len(row)}{kind}", len(row), *row) for row in x.tolist())


def refusal(path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_vectors(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "kind", "dtype"),
    [("fvecs", "f", np.float32), ("bvecs", "B", np.uint8), ("ivecs", "i", np.int32)],
)
def test_rows_behind_their_width(tmp_path, rng, suffix, kind, dtype):
    due = rng.integers(0, 256, (7, 5)).astype(dtype)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(rows_of(due, kind))
    x = read_vectors(path)
    np.testing.assert_array_equal(x, due, strict=True)
    assert isinstance(x, np.memmap)
    assert not x.flags.writeable


@pytest.mark.parametrize("dtype", ["<f4", "<f2", ">f8", "u1", "<i8"])
def test_npy_is_mapped(tmp_path, rng, dtype):
    due = rng.integers(0, 256, (7, 5)).astype(dtype)
    np.save(tmp_path / "x.npy", due)
    x = read_vectors(tmp_path / "x.npy")
    np.testing.assert_array_equal(x, due)
    assert isinstance(x, np.memmap)


@pytest.mark.parametrize("kind", ["list_", "large_list", "fixed"])
def test_parquet_of_lists(tmp_path, rng, kind):
    due = rng.normal(size=(7, 5)).astype(np.float32)
    number = pyarrow.float32()
    types = {
        "list_": pyarrow.list_(number),
        "large_list": pyarrow.large_list(number),
        "fixed": pyarrow.list_(number, 5),
    }
    table = pyarrow.table(
        {"name": list("abcdefg"), "vector": pyarrow.array(list(due), types[kind])}
    )
    # Groups of three rows, so that several chunks are joined.
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    x = read_vectors(tmp_path / "x.parquet")
    np.testing.assert_array_equal(x, due, strict=True)
    assert not x.flags.writeable


def test_nan_is_left_to_those_who_use_the_vectors(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[np.nan, 1.0]]))
    assert np.isnan(read_vectors(tmp_path / "x.npy")[0, 0])


def test_a_cut_file_says_so(tmp_path, rng):
    path = tmp_path / "x.fvecs"
    path.write_bytes(rows_of(rng.normal(size=(3, 5)), "f")[:-4])
    assert refusal(path) == (
        f"cannot read vectors {path}: 68 bytes are no whole rows of 5 numbers and 24 bytes; it "
        "may be cut or of another format"
    )
    path = tmp_path / "x.npy"
    np.save(path, rng.normal(size=(3, 5)))
    path.write_bytes(path.read_bytes()[:-4])
    assert refusal(path).startswith(f"cannot read vectors {path}: mmap length is greater than")


@pytest.mark.parametrize("content", [b"", b"\1\0", struct.pack("<i", 0), struct.pack("<i", -3)])
def test_an_impossible_width_says_so(tmp_path, content):
    path = tmp_path / "x.fvecs"
    path.write_bytes(content)
    assert "the first row's width must be 1 to 1,048,576, got" in refusal(path)


def test_mixed_widths_say_so(tmp_path):
    path = tmp_path / "x.ivecs"
    one, two = struct.pack("<ii", 1, 7), struct.pack("<iii", 2, 7, 8)
    # Rows of two numbers, of which three make four rows of one number in bytes.
    path.write_bytes(one + one + two + two + one + one)
    assert "rows must have one width, got 1 and, in row 2, 2" in refusal(path)


def test_a_shifted_row_shows_in_a_file_of_more_rows_than_are_looked_at(tmp_path):
    row, wide = struct.pack("<iB", 1, 9), struct.pack("<iBBBBBB", 6, *range(6))
    path = tmp_path / "x.bvecs"
    path.write_bytes(row * 10 + wide + row * (_LOOKED_AT + 100))
    assert "rows must have one width, got 1 and, in row 10, 6" in refusal(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": [1.0, 2.0]}, "it must have one column of lists, got 0 of the columns a"),
        (
            {"a": [[1.0]], "b": [[2.0]]},
            "it must have one column of lists, got 2 of the columns a, b",
        ),
        (
            {"a": [[1.0], [2.0, 3.0]]},
            "rows of a must have one width, got widths 1 to 2 and 0 null rows",
        ),
        ({"a": [[1.0], None]}, "rows of a must have one width, got widths 0 to 1 and 1 null rows"),
    ],
)
def test_parquet_of_something_else_says_so(tmp_path, table, message):
    parquet.write_table(pyarrow.table(table), tmp_path / "x.parquet")
    assert message in refusal(tmp_path / "x.parquet")


def test_damaged_parquet_says_so(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 not a table PAR1")
    assert refusal(path).startswith(f"cannot read vectors {path}: ")


@pytest.mark.parametrize(
    "x",
    [np.zeros(3), np.zeros((2, 0)), np.zeros((2, 3, 4)), np.zeros((2, 3), bool), np.array([["a"]])],
)
def test_no_table_of_real_numbers_says_so(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    assert refusal(tmp_path / "x.npy").startswith(f"cannot read vectors {tmp_path / 'x.npy'}: ")


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[{}]]), allow_pickle=True)
    assert "cannot read vectors" in refusal(tmp_path / "x.npy")


def test_an_unknown_suffix_and_an_absent_file_say_so(tmp_path):
    assert refusal(tmp_path / "x.csv") == (
        f"vectors must be in a file .npy, .fvecs, .bvecs, .ivecs, .parquet, got {tmp_path}/x.csv"
    )
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}/x.npy; name one"):
        read_vectors(tmp_path / "x.npy")


def test_an_array_of_any_shape(tmp_path, rng):
    np.save(tmp_path / "x.npy", np.arange(5))
    assert read_npy(tmp_path / "x.npy").tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(
        ValueError, match=r"does not begin as a .npy file of version 1\.0; it may be"
    ):
        read_npy(tmp_path / "x.npy")
