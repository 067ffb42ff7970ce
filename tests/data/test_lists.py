import errno
import os

import numpy as np
import pytest

from quantjax.data import by_name, file_lists
from tests.data.photo_files import write_photo

pytest.importorskip("PIL")

PHOTOS = {"a.jpg": 0, "b/b.jpg": 40, "c.jpg": 80, "d.jpg": 120, "e.jpg": 160, "f.jpg": 200}


@pytest.fixture
def root(tmp_path):
    for name, value in PHOTOS.items():
        write_photo(tmp_path / "photos" / name, value)
    return tmp_path / "photos"


@pytest.fixture
def files(tmp_path):
    texts = {
        "train": "a.jpg 0 1\nb/b.jpg 1 1\nc.jpg 1 0\n",
        "query": "f.jpg 1 0\n",
        "database": "a.jpg 0 1\nd.jpg 1 0\ne.jpg 0 1\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return {name: tmp_path / f"{name}.txt" for name in texts}


def names_of(splits, rows):
    return [splits.source.paths[row].name for row in rows]


def test_lists_become_splits_of_photos(root, files):
    splits = file_lists(root, **files)
    assert names_of(splits, splits.train) == ["a.jpg", "b.jpg", "c.jpg"]
    assert names_of(splits, splits.query) == ["f.jpg"]
    assert names_of(splits, splits.database) == ["a.jpg", "d.jpg", "e.jpg"]
    assert not len(splits.validation)
    assert splits.name == "file_lists"
    assert splits.source.classes == ("0", "1")
    batch = splits.source[np.array([[5, 1]])]
    assert batch["image"].shape == (1, 2, 8, 8, 3)
    np.testing.assert_allclose(batch["image"].mean(axis=(2, 3, 4)), [[200, 40]], atol=1)
    np.testing.assert_array_equal(batch["label"], [[[1, 0], [1, 1]]])


def test_the_digest_is_pinned_and_shows_a_moved_photo(root, files):
    digest = "0cdec7f277214709f099fad5e213144d511e62e30a21103af367a41859e5386d"
    assert file_lists(root, **files).digest == digest
    lines = files["database"].read_text().splitlines()
    files["database"].write_text("\n".join(reversed(lines)))
    assert file_lists(root, **files, name="mine").digest == digest
    files["database"].write_text("\n".join(lines[1:]))
    assert file_lists(root, **files).digest != digest


def test_class_ids_become_multi_hot_in_a_batch(root, files):
    for name, text in (("train", "a.jpg 2"), ("query", "f.jpg 0"), ("database", "d.jpg 2")):
        files[name].write_text(text)
    splits = file_lists(root, **files)
    np.testing.assert_array_equal(splits.source.labels, [2, 2, 0])
    label = splits.source[np.array([[0, 2]])]["label"]
    np.testing.assert_array_equal(label, [[[0, 0, 1], [1, 0, 0]]])
    assert label.dtype == np.uint8
    assert file_lists(root, **files, classes=list("abcd")).source.classes == ("a", "b", "c", "d")


def test_validation_is_listed_or_drawn_or_empty(root, files, tmp_path):
    drawn = file_lists(root, **files, num_validation=1, seed=3)
    assert len(drawn.validation) == 1
    order = np.random.default_rng(3).permutation(3)
    assert drawn.validation.tolist() == [order[0]]
    assert drawn.train.tolist() == sorted(order[1:])
    others = {file_lists(root, **files, num_validation=1, seed=seed).digest for seed in range(9)}
    assert len(others) == 3
    (tmp_path / "validation.txt").write_text("e.jpg 0 1")
    listed = file_lists(root, **files, validation=tmp_path / "validation.txt")
    assert names_of(listed, listed.validation) == ["e.jpg"]
    assert names_of(listed, listed.validation_database) == ["a.jpg", "d.jpg"]


@pytest.mark.parametrize("num_validation", [-1, 3, 4])
def test_validation_is_smaller_than_train(root, files, num_validation):
    with pytest.raises(ValueError, match=rf"must be smaller, got {num_validation} of 3"):
        file_lists(root, **files, num_validation=num_validation)


def test_validation_is_not_drawn_beside_a_list(root, files):
    with pytest.raises(ValueError, match=r"num_validation must be 0, got 1"):
        file_lists(root, **files, validation=files["query"], num_validation=1)


@pytest.mark.parametrize(
    ("name", "line", "pair"),
    [
        ("query", "a.jpg 0 1", "query and train"),
        ("query", "d.jpg 1 0", "query and database"),
        ("validation", "c.jpg 1 0", "validation and train"),
        ("validation", "f.jpg 1 0", "query and validation"),
    ],
)
def test_shared_photos_are_refused_by_name(root, files, tmp_path, name, line, pair):
    files[name] = tmp_path / f"{name}.txt"
    files[name].write_text(line)
    with pytest.raises(
        ValueError, match=rf"{pair} must share no row, got 1 in both, such as .*{line.split()[0]}"
    ):
        file_lists(root, **files)


def test_queries_may_overlap_when_told(root, files):
    files["query"].write_text("a.jpg 0 1\nf.jpg 1 0\n")
    splits = file_lists(root, **files, allow_query_overlap=True)
    assert names_of(splits, splits.query) == ["a.jpg", "f.jpg"]


def test_missing_photos_are_counted_and_named(root, files):
    for name in ("a.jpg", "b/b.jpg", "d.jpg", "e.jpg"):
        (root / name).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"file_lists: 4 of 6 photos are missing in .*photos, such as a.jpg, b/b.jpg, d.jpg; "
        r"get them, or pass allow_incomplete=True",
    ):
        file_lists(root, **files)


def test_an_incomplete_copy_has_another_name_and_digest(root, files):
    whole = file_lists(root, **files)
    assert file_lists(root, **files, allow_incomplete=True).name == "file_lists"
    (root / "d.jpg").unlink()
    splits = file_lists(root, **files, allow_incomplete=True, name="mine")
    assert splits.name == "mine incomplete"
    assert splits.digest != whole.digest
    assert names_of(splits, splits.database) == ["a.jpg", "e.jpg"]
    np.testing.assert_array_equal(splits.train, whole.train)
    assert len(splits.source) == len(whole.source)


def test_a_folder_or_dangling_link_is_no_photo(root, files):
    (root / "d.jpg").unlink()
    (root / "d.jpg").mkdir()
    (root / "e.jpg").unlink()
    os.symlink(root / "nowhere.jpg", root / "e.jpg")
    with pytest.raises(FileNotFoundError, match=r"2 of 6 photos .* such as d.jpg, e.jpg;"):
        file_lists(root, **files)


def test_a_link_to_itself_or_a_name_beyond_the_disk_is_no_photo(root, files):
    (root / "d.jpg").unlink()
    os.symlink("d.jpg", root / "d.jpg")
    os.symlink("circle", root / "circle")
    long, deep = "x" * 300, "x/" * 5000
    with files["train"].open("a") as stream:
        stream.write(f"{long}/g.jpg 0 1\ncircle/h.jpg 0 1\n{deep}i.jpg 0 1\n")
    with pytest.raises(
        FileNotFoundError, match=r"4 of 9 photos .* such as circle/h.jpg, d.jpg, x/x"
    ) as caught:
        file_lists(root, **files)
    assert len(str(caught.value)) < 600 + len(str(root))
    place = by_name(root)
    assert place("d.jpg") == "d.jpg"
    with pytest.raises(FileNotFoundError, match=r"4 of 9 photos"):
        file_lists(root, **files, place=place)


def test_what_may_not_be_looked_at_is_not_called_missing(root, files, monkeypatch):
    def refused(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError):
        file_lists(root, **files)


def test_links_are_followed(root, files, tmp_path):
    (root / "d.jpg").rename(tmp_path / "elsewhere.jpg")
    os.symlink(tmp_path / "elsewhere.jpg", root / "d.jpg")
    (root / "b").rename(tmp_path / "folder")
    os.symlink(tmp_path / "folder", root / "b")
    assert len(file_lists(root, **files).source) == 6


def test_lists_of_another_machine_are_placed_by_name(root, files):
    files["train"].write_text("/elsewhere/photos/a.jpg 0 1\n./old/b.jpg 1 1\nc.jpg 1 0\n")
    splits = file_lists(root, **files, place=by_name(root))
    assert names_of(splits, splits.train) == ["a.jpg", "b.jpg", "c.jpg"]
    assert splits.digest == file_lists(root, **files, place=by_name(root)).digest
    with pytest.raises(ValueError, match=r"line 1: path '/elsewhere/photos/a.jpg' is absolute"):
        file_lists(root, **files)


def test_by_name_says_what_it_does_not_find_and_what_it_finds_twice(root, files):
    files["query"].write_text("/elsewhere/g.jpg 1 0")
    with pytest.raises(FileNotFoundError, match=r"1 of 6 photos are missing in .*, such as g.jpg"):
        file_lists(root, **files, place=by_name(root))
    files["query"].write_text("f.jpg 1 0")
    write_photo(root / "z" / "f.jpg")
    assert len(file_lists(root, **files, place=by_name(root)).query) == 1
    files["query"].write_text("x/f.jpg 1 0")
    with pytest.raises(
        ValueError, match=r"line 1: photo f.jpg lies 2 times below .*, at f.jpg and z/f.jpg; take"
    ):
        file_lists(root, **files, place=by_name(root))


def test_by_name_walks_links_but_no_circles(root, tmp_path):
    os.symlink(root, root / "b" / "circle")
    write_photo(root / ".hidden" / "h.jpg")
    write_photo(tmp_path / "elsewhere" / "g.jpg")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    place = by_name(root)
    assert place("/x/a.jpg") == "a.jpg"
    assert place(r"c:\x\g.jpg") == "linked/g.jpg"
    assert place("h.jpg") == "h.jpg"


def test_sizes_are_checked_as_in_folders(root, files):
    write_photo(root / "d.jpg", side=9)
    with pytest.raises(ValueError, match=r"one size, got .*a.jpg of 8 x 8 and .*d.jpg of 9 x 9"):
        file_lists(root, **files)
    batch = file_lists(root, **files, size=5).source[np.arange(6)]
    assert batch["image"].shape == (6, 5, 5, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"root": "nowhere"}, FileNotFoundError, "no folder nowhere; name the one that holds"),
        ({"train": "nowhere.txt"}, FileNotFoundError, "no list file nowhere.txt"),
        ({"size": 0}, ValueError, "size must be 1 pixel or more, got 0"),
        ({"classes": ["x"]}, ValueError, "classes must hold 2 names, as the lists have, got 1"),
        ({"classes": ["x"] * 3}, ValueError, "classes must hold 2 names, as the lists have, got 3"),
    ],
)
def test_wrong_arguments_are_named(root, files, change, error, message):
    with pytest.raises(error, match=message):
        file_lists(**{"root": root, **files, **change})
