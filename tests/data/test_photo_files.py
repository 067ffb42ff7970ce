"""Photos that are named one by one are a source, labelled or not, in memory or in records."""

import re

import numpy as np
import pytest

from quantjax import data
from tests.data.photo_files import write_photo


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / name for name in ("b/2.png", "b/c/1.png", "3.png")]
    for value, path in enumerate(found):
        write_photo(path, 50 * value)
    return found


def test_photos_come_in_the_order_of_their_paths(paths):
    source = data.from_photos(map(str, paths), [1, 0, 1], classes=["ant", "bee"])
    batch = source[np.array([2, 0])]
    np.testing.assert_array_equal(batch["image"][:, 0, 0], [[100] * 3, [0] * 3])
    np.testing.assert_array_equal(batch["label"], [[0, 1], [0, 1]])
    assert source.name_of(1) == paths[1]


@pytest.mark.parametrize("size", [None, 4])
def test_photos_without_labels_go_through_records(paths, size, tmp_path):
    pytest.importorskip("grain")
    source = data.from_photos(paths)
    assert (source.labels.shape, source.classes) == ((3, 0), ())
    data.to_records(source, tmp_path / "records", size=size, parts={"train": np.array([2])})
    records = data.from_records(tmp_path / "records")
    assert (records.labels.shape, records.classes) == ((3, 0), ())
    rows = np.array([2, 0])
    due = data.from_photos(paths, size=size)[rows]
    found = records[rows]
    assert found["label"].shape == (2, 0)
    np.testing.assert_array_equal(found["image"], due["image"])
    assert re.search(r"photos-00000-of-00001\.\w{8}\.array_record\[1\]$", records.name_of(1))
    splits = data.make_splits(
        records, train=records.parts["train"], validation=[], query=[0], database=[1, 2]
    )
    assert data.audit(splits).unlabelled["database"] == 2


def test_paths_and_labels_that_do_not_fit_are_refused(paths):
    with pytest.raises(ValueError, match="paths must name a photo at least, got none"):
        data.from_photos([])
    with pytest.raises(ValueError, match=r"label must be class ids \(3,\) of integers"):
        data.from_photos(paths, [0, 1])
    write_photo(paths[0], side=9)
    with pytest.raises(ValueError, match="photos must have one size"):
        data.from_photos(paths)
