"""A folder of photos is split by its parts, by class, or not at all."""

import numpy as np
import pytest

from quantjax import recipes
from quantjax.recipes.folders import PARTS
from tests.data.photo_files import plant


def names(photos, rows):
    return [f"{photos.paths[row].parent.name}/{photos.paths[row].name}" for row in rows]


def test_class_folders_are_drawn_from(tmp_path):
    plant(tmp_path, " ".join(f"{name}/{n:02d}.png" for name in "ab" for n in range(20)))
    photos, parts = recipes.find_photos(tmp_path, size=8)
    assert photos.classes == ("a", "b")
    assert list(parts) == list(PARTS)
    for name, due in zip(PARTS, (16, 2, 2), strict=True):
        assert photos.labels[parts[name]].sum(axis=0).tolist() == [due, due]
    again, other = (recipes.find_photos(tmp_path, size=8, seed=seed)[1] for seed in (0, 1))
    np.testing.assert_array_equal(again["test"], parts["test"])
    assert other["test"].tolist() != parts["test"].tolist()


def test_part_folders_are_found_by_name(tmp_path):
    plant(tmp_path, "train/a/1.png train/b/2.png test/a/3.png")
    photos, parts = recipes.find_photos(tmp_path, size=8)
    found = {name: names(photos, rows) for name, rows in parts.items()}
    assert found == {"train": ["a/1.png", "b/2.png"], "validation": [], "test": ["a/3.png"]}
    plant(tmp_path, "validation/b/4.png")
    photos, parts = recipes.find_photos(tmp_path, size=8)
    assert names(photos, parts["validation"]) == ["b/4.png"]


def test_parts_of_other_names_are_given(tmp_path):
    plant(tmp_path, "old/a/1.png new/a/2.png mid/b/3.png")
    photos, parts = recipes.find_photos(tmp_path, size=8, parts=["old", "mid", "new"])
    assert names(photos, parts["test"]) == ["a/2.png"]
    photos, parts = recipes.find_photos(tmp_path, size=8, parts=["old", "new"])
    assert names(photos, parts["test"]) == ["a/2.png"]
    assert not len(parts["validation"])
    with pytest.raises(ValueError, match="parts must be two or three folders, got old"):
        recipes.find_photos(tmp_path, size=8, parts=["old"])


def test_a_flat_folder_has_no_classes(tmp_path):
    plant(tmp_path, "b.png a.jpg notes.txt .hidden.png")
    photos, parts = recipes.find_photos(tmp_path, size=8)
    assert [path.name for path in photos.paths] == ["a.jpg", "b.png"]
    assert (photos.classes, parts) == ((), {})


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        recipes.find_photos(tmp_path / "x", size=8)
