"""Every file of a folder of class folders is a photo, or is counted by its kind."""

import os

import pytest

from quantjax.data import image_folder, photo_files
from quantjax.data.decoding import reads_heic
from quantjax.data.photo_files import notes_of, read_class_folders
from tests.data.photo_files import plant

pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _without_heic(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    reads_heic.cache_clear()
    yield
    reads_heic.cache_clear()


def notes(folder):
    return notes_of(folder, [read_class_folders(folder)])


def test_sub_folders_of_a_class_belong_to_it(tmp_path):
    plant(tmp_path, "cat/b.jpg cat/2019/a.jpg cat/2019/july/c.png ant/x.jpg ant/z/y.JPG")
    source = image_folder(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in source.paths] == [
        "ant/x.jpg",
        "ant/z/y.JPG",
        "cat/2019/a.jpg",
        "cat/2019/july/c.png",
        "cat/b.jpg",
    ]
    assert source.labels.argmax(axis=1).tolist() == [0, 0, 1, 1, 1]
    assert source.notes == ("3 in sub-folders (ant/z, cat/2019, cat/2019/july)",)


def test_jfif_is_read(tmp_path):
    plant(tmp_path, "cat/a.jpg")
    (tmp_path / "cat" / "a.jpg").rename(tmp_path / "cat" / "a.JFIF")
    assert image_folder(tmp_path).summary == "1 photos of 1 classes"


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ("cat/x.txt ant/y.TXT", "2 .txt (ant/y.TXT, ...)"),
        ("cat/IMG_7", "1 without a suffix (cat/IMG_7)"),
        ("cat/.DS_Store", "1 hidden (cat/.DS_Store)"),
        ("cat/._a.jpg cat/.thumbs/a.jpg .git/x.jpg", "3 hidden (.git, ...)"),
        ("readme.md a.jpg", "2 beside the class folders (a.jpg, ...)"),
        ("cat/deep/er/x.mov", "1 .mov (cat/deep/er/x.mov)"),
        (
            "cat/a.HEIC cat/b.heif cat/c.heic",
            '2 .heic (cat/a.HEIC, ...; pip install "quantjax[heic]" reads them), '
            '1 .heif (cat/b.heif; pip install "quantjax[heic]" reads them)',
        ),
        ("cat/x.1 cat/y.1 cat/IMG_7 ant/z.2", "2 .1 (cat/x.1, ...), 1 .2 (ant/z.2), 1 without"),
    ],
)
def test_what_is_no_photo_is_counted_by_kind(tmp_path, names, note):
    plant(tmp_path, f"ant/1.jpg cat/2.png {names}")
    (found,) = notes(tmp_path)
    assert found.startswith(f"ignored: {note}")
    assert len(image_folder(tmp_path)) == 2


def test_of_many_kinds_the_most_frequent_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_files, "_KINDS", 2)
    plant(tmp_path, "a/1.jpg b/2.jpg a/x.c1 a/x.c2 a/y.c2 a/x.c3 b/x.c3 a/y.c3 a/x.c4")
    assert notes(tmp_path) == [
        "ignored: 3 .c3 (a/x.c3, ...), 2 .c2 (a/x.c2, ...), 2 of 2 more kinds"
    ]


def test_links_are_followed_once_and_in_no_circle(tmp_path):
    plant(tmp_path, "cat/in/a.jpg dog/b.jpg elsewhere/c.jpg")
    (tmp_path / "elsewhere").rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    os.symlink(f"{tmp_path}-elsewhere", tmp_path / "cat" / "out")
    os.symlink("in", tmp_path / "cat" / "twin")
    os.symlink("..", tmp_path / "cat" / "in" / "circle")
    names = [path.name for path in image_folder(tmp_path).paths]
    assert names == ["a.jpg", "c.jpg", "b.jpg"]
    assert notes(tmp_path)[0] == (
        "ignored: 2 folders met a second time through a link (cat/twin, ...)"
    )


@pytest.mark.parametrize(
    ("one", "other"), [("C01", "c01"), ("caf\u00e9", "cafe\u0301"), ("a", "a ")]
)
def test_classes_whose_names_look_alike_are_pointed_out(tmp_path, one, other):
    for name in (one, other, "b"):
        (tmp_path / name).mkdir()
        plant(tmp_path / name, "x.jpg")
    names = " and ".join(map(repr, sorted((one, other))))
    assert notes(tmp_path) == [f"{names} are 2 classes, though they look alike"]
    assert len(image_folder(tmp_path).classes) == 3


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("train/a/1.jpg test/a/2.jpg", "train,test"),
        ("Test/a/1.jpg extra/a/1.jpg val/a/2.jpg Train/b/3.jpg", "Train,val,Test"),
        ("gallery/a/1.jpg query/a/x/2.jpg notes.txt", "query,gallery"),
    ],
)
def test_a_folder_of_parts_is_no_folder_of_classes(tmp_path, names, parts):
    plant(tmp_path, names)
    with pytest.raises(ValueError, match=rf"is split already, .*pass --parts={parts} \(in Python"):
        image_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        "train/a/1.jpg plane/b/2.jpg",  # a toy train
        "train/1.jpg test/2.jpg",
        "train/a/1.jpg test/a/",
    ],
)
def test_classes_may_have_a_name_of_a_part(tmp_path, names):
    image_folder(plant(tmp_path, names))


def test_a_folder_around_the_class_folders_is_pointed_out(tmp_path):
    plant(tmp_path, "photos/ant/1.jpg photos/cat/2.jpg")
    assert "photos is the only class; if its folders are the classes, name it" in notes(tmp_path)
