"""Ids of any integers and any strings come back; others are refused before a file is written."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import index
from quantjax.errors import InputError
from quantjax.index import ids
from quantjax.quantizers import BinaryCodec

NAMES = ["train/c01/Übung 1.jpg", "", "a", "照片.png", "🐈", "\udcff.jpg", "a\0b"]
INTEGERS = [-(2**63), 2**63 - 1, 0, -1, 2**32 + 7, 7, 3]


@pytest.mark.parametrize(
    ("given", "due"),
    [
        (INTEGERS, INTEGERS),
        (np.array(INTEGERS), INTEGERS),
        (np.array(INTEGERS).astype(">i8"), INTEGERS),
        (np.array([2**63 - 1, *range(6)], np.uint64), [2**63 - 1, *range(6)]),
        (np.arange(7, dtype=np.uint8)[::-1], range(6, -1, -1)),
        (jnp.arange(7), range(7)),
        (np.array(INTEGERS, object), INTEGERS),
        (NAMES, NAMES),
        (tuple(NAMES), NAMES),
        (np.array(NAMES), NAMES),
        (np.array(NAMES, object), NAMES),
        (["a", "a\0", "a\0\0", "", "\0", "c", "b"], ["a", "a\0", "a\0\0", "", "\0", "c", "b"]),
        (np.array([*NAMES[:5], "x", "y"], np.dtypes.StringDType()), [*NAMES[:5], "x", "y"]),
    ],
)
def test_ids_come_back_as_they_were(given, due, tmp_path):
    due = list(due)
    index.save(tmp_path, BinaryCodec(8), np.zeros((7, 1), np.uint8), ids=given)
    found = index.load(tmp_path).ids
    assert found.tolist() == due
    assert found.dtype == np.int64 or all(type(name) is str for name in found)
    # What was loaded can be saved again.
    index.save(tmp_path, BinaryCodec(8), np.zeros((7, 1), np.uint8), ids=found)
    assert index.load(tmp_path).ids.tolist() == due


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([1.0, 2.0]), "integers that fit in int64, or strings, got 1.0 in row 0"),
        ([1, 2.5], "got 2.5 in row 1"),
        (np.array([1, 2**63], np.uint64), "got 9223372036854775808 in row 1"),
        ([0, -(2**63) - 1], "got -9223372036854775809 in row 1"),
        (np.array([True, False]), "got True in row 0"),
        ([b"a", b"b"], "got b'a' in row 0"),
        ([1, "a"], "got some of both"),
        (["a", None], "got None in row 1"),
        ([[1], [2, 3]], r"got \[1\] in row 0"),
        (np.zeros((2, 1), int), r"ids must have shape \(2,\), got \(2, 1\)"),
        (["a", "b", "c"], r"ids must have shape \(2,\), got \(3,\)"),
    ],
)
def test_other_ids_are_refused_and_nothing_is_written(given, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        index.save(tmp_path / "new", BinaryCodec(8), np.zeros((2, 1), np.uint8), ids=given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_no_items_at_all_come_back(tmp_path):
    for given in (None, [], np.zeros(0, int)):
        index.save(tmp_path, BinaryCodec(8), np.zeros((0, 1), np.uint8), ids=given)
        found = index.load(tmp_path)
        assert (found.codes.shape, found.ids.shape, found.ids.dtype) == ((0, 1), (0,), np.int64)


def test_strings_are_stored_one_behind_the_other():
    tensors = ids.id_tensors(["é", "", "ab"], 3)
    assert {name: x.tolist() for name, x in tensors.items()} == {
        "ids.text": [0xC3, 0xA9, ord("a"), ord("b")],
        "ids.ends": [2, 2, 4],
    }
