"""Arrays that are written block by block read back to the bit, by us and by safetensors."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantjax.errors import InputError
from quantjax.run import tensors
from quantjax.run.tensors import Blocks


def example(rng):
    return {
        "half": rng.normal(size=(5, 3)).astype(np.float16),
        "wide": rng.integers(0, 9, (4, 2)),
        "bytes": rng.integers(0, 256, (7, 1), dtype=np.uint8),
        "none": np.zeros((0, 4), np.float32),
        "number": np.array(3.5),
        "flags": np.array([True, False, True]),
        "big_endian": np.arange(3, dtype=">i4"),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }


def test_safetensors_and_the_map_read_what_was_written(rng, tmp_path):
    arrays = example(rng)
    digests = tensors.write(tmp_path / "a", arrays)
    for found in (load_file(tmp_path / "a"), tensors.map_arrays(tmp_path / "a")):
        assert found.keys() == arrays.keys()
        for name, x in arrays.items():
            np.testing.assert_array_equal(found[name], x)
            assert found[name].dtype == x.dtype.newbyteorder("<")
            assert tensors.digest(found[name]) == digests[name]


def test_the_map_reads_files_of_safetensors(rng, tmp_path):
    arrays = {name: np.ascontiguousarray(x) for name, x in example(rng).items()}
    del arrays["big_endian"]
    save_file(arrays, tmp_path / "a", {"who": "else"})
    found = tensors.map_arrays(tmp_path / "a")
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x)


def test_blocks_and_a_whole_array_make_one_file(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "_BLOCK", 8)
    x = rng.normal(size=(9, 3))
    blocks = Blocks(x.dtype, x.shape, (x[rows] for rows in tensors.row_ranges(9, 24)))
    assert tensors.write(tmp_path / "a", {"x": x}) == tensors.write(tmp_path / "b", {"x": blocks})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_digest_is_of_type_shape_and_bytes():
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    due = hashlib.sha256(b"<i4 (2, 3) " + x.tobytes()).hexdigest()
    assert tensors.digest(x) == due
    others = (x.reshape(3, 2), x.view(np.float32), x + 1)
    assert due not in {tensors.digest(other) for other in others}


@pytest.mark.parametrize(("rows", "more"), [(2, "-4"), (4, r"\+4")])
def test_blocks_that_do_not_add_up_are_refused_and_nothing_is_left(rows, more, tmp_path):
    blocks = Blocks(np.dtype(np.int32), (3,), [np.zeros(rows, np.int32)])
    with pytest.raises(InputError, match=rf"blocks of x must add up to \(3,\), got {more} bytes"):
        tensors.write(tmp_path / "a", {"x": blocks})
    assert list(tmp_path.iterdir()) == []


def test_ranges_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(tensors, "_BLOCK", 10)
    assert [list(range(9))[rows] for rows in tensors.row_ranges(9, 3)] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8],
    ]  # fmt: skip
    assert list(tensors.row_ranges(0, 3)) == []
    assert list(tensors.row_ranges(2, 99)) == [slice(0, 1), slice(1, 2)]
