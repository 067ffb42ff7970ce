"""Items are listed in a fixed order, under a digest, from folders, lists, patterns and URLs."""

import fsspec
import numpy as np
import pytest

from quantjax import index
from quantjax.errors import InputError, MissingFileError
from quantjax.index.items import list_items, read_photo
from tests.index.encoders import plant_photos

NAMES = ["ant/a.png", "ant/deep/b.jpg", "cat/a.png", "top.png"]


@pytest.fixture
def photos(tmp_path):
    return plant_photos(tmp_path / "photos", NAMES)


def test_a_folder_is_listed_at_any_depth_with_its_class_folders(photos):
    (photos / "notes.md").write_text("")
    found = list_items(photos, kind="photos")
    assert (found.names, found.root) == (NAMES, str(photos))
    assert (found.classes, found.class_ids.tolist()) == (["ant", "cat"], [0, 0, 1, -1])
    assert found.notes == ["ignored: 1 .md (notes.md)"]


def test_a_flat_folder_has_no_classes(tmp_path):
    found = list_items(plant_photos(tmp_path, ["b.png", "a.png"]), kind="photos")
    assert (found.names, found.classes, found.class_ids) == (["a.png", "b.png"], [], None)


def test_classes_are_below_folders_of_parts(tmp_path):
    names = ["test/ant/a.png", "train/ant/a.png", "train/cat/deep/a.png"]
    found = list_items(plant_photos(tmp_path, names), kind="photos")
    assert (found.classes, found.class_ids.tolist()) == (["ant", "cat"], [0, 0, 1])


def test_a_list_names_paths_relative_to_its_folder(photos):
    (photos / "list.txt").write_text("cat/a.png\n\n  ant/a.png \n")
    found = list_items(photos / "list.txt", kind="photos")
    assert (found.names, found.root, found.classes) == (["cat/a.png", "ant/a.png"], str(photos), [])
    assert read_photo(found, 1, index.Preparation(4)).shape == (4, 4, 3)


def test_a_pattern_is_listed_from_its_first_wildcard_on(photos):
    found = list_items(f"{photos}/ant/**/*.jpg", kind="photos")
    assert (found.names, found.root) == (["deep/b.jpg"], str(photos / "ant"))


@pytest.mark.parametrize("ending", ["", "/", "/**/*.png"])
def test_a_url_gives_the_pixels_of_the_folder(photos, ending):
    files = fsspec.filesystem("memory")
    files.put(str(photos), "/shelf/photos", recursive=True)
    try:
        found = list_items(f"memory://shelf/photos{ending}", kind="photos")
        due = list_items(photos, kind="photos")
        assert set(found.names) == {name for name in NAMES if not ending[1:] or ".png" in name}
        assert found.root == "memory:///shelf/photos"
        for row, name in enumerate(found.names):
            np.testing.assert_array_equal(
                read_photo(found, row, index.Preparation(4)),
                read_photo(due, due.names.index(name), index.Preparation(4)),
            )
    finally:
        files.rm("/shelf", recursive=True)


def test_vectors_are_numbered(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 3), np.float32))
    found = list_items(tmp_path / "x.npy", kind="vectors")
    assert (list(found.names), found.vectors) == ([0, 1, 2, 3, 4], tmp_path / "x.npy")


def test_a_digest_tells_lists_apart(tmp_path, photos):
    digests = {list_items(photos, kind="photos").digest}
    plant_photos(photos, ["cat/b.png"])
    digests.add(list_items(photos, kind="photos").digest)
    for seed, shape in ((1, (5, 3)), (1, (5, 4)), (2, (5, 3))):
        np.save(tmp_path / "x.npy", np.random.default_rng(seed).normal(size=shape))
        digests.add(list_items(tmp_path / "x.npy", kind="vectors").digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none", MissingFileError, "no photos at .*none; name a folder, a .txt file of paths"),
        ("empty", InputError, "empty has no photo that can be read; ignored: 1 .md"),
        ("twice.txt", InputError, "photo a.png is listed twice; take one line away"),
        ("*.gif", InputError, "has no photo that can be read"),
    ],
)
def test_a_source_without_items_is_refused(source, error, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("")
    (tmp_path / "twice.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(error, match=message):
        list_items(f"{tmp_path}/{source}", kind="photos")
