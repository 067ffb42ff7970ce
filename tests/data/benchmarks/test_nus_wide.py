import numpy as np
import pytest

from quantjax.data import nus_wide_21, nus_wide_81
from quantjax.data.benchmarks import Counts
from quantjax.data.benchmarks.concepts import CONCEPTS, COUNTS_21
from quantjax.data.benchmarks.listed import COUNTS_81
from tests.data.photo_files import write_list, write_photo

pytest.importorskip("PIL")

TINY = Counts(photos=105, classes=21, query=21, train=42, database=84)


def official(folder, *, num_empty=4, photos=True):
    """Five photos of each concept, and some of none, which have no file."""
    num_photos = 105 + num_empty
    lines = [f"part{row % 3}\\{row:04d}_{row * 37}.jpg" for row in range(num_photos)]
    (folder / "ImageList").mkdir(parents=True)
    (folder / "ImageList" / "Imagelist.txt").write_text("\r\n".join(lines) + "\r\n")
    (folder / "Groundtruth" / "AllLabels").mkdir(parents=True)
    for column, name in enumerate(CONCEPTS):
        values = ["1" if row < 105 and row % 21 == column else "0" for row in range(num_photos)]
        file = folder / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt"
        file.write_text("\n".join(values) + "\n")
    for row in range(105 if photos else 0):
        write_photo(folder / "Flickr" / lines[row].replace("\\", "/"), value=row)
    return folder


def listed(folder, num_classes, sizes, prefix="./data/nuswide/images/"):
    """HashNet's layout: a flat folder of photos, and lists with paths of another machine."""
    train, query, database = sizes
    photos = [f"{row}_{row * 37}_m.jpg" for row in range(query + database)]
    labels = [
        [int(row % num_classes == column) for column in range(num_classes)]
        for row in range(query + database)
    ]
    for photo in photos:
        write_photo(folder / "images" / photo)
    paths = [prefix + photo for photo in photos]
    write_list(folder / "test.txt", paths[:query], labels[:query])
    write_list(folder / "database.txt", paths[query:], labels[query:])
    write_list(folder / "train.txt", photos[-train:], labels[-train:])
    return folder


def test_the_official_files_are_drawn_from(tmp_path):
    splits = nus_wide_21(official(tmp_path), counts=TINY, num_validation=2)
    assert splits.name == "nus_wide_21"
    assert splits.source.classes == CONCEPTS
    assert [len(rows) for rows in (splits.train, splits.validation, splits.query)] == [40, 2, 21]
    assert splits.source.labels[splits.query].sum(axis=0).tolist() == [1] * 21
    np.testing.assert_array_equal(splits.database, np.setdiff1d(np.arange(105), splits.query))
    assert np.isin(splits.train, splits.database).all()
    batch = splits.source[np.array([30])]
    assert batch["image"].shape == (1, 256, 256, 3)
    assert abs(int(batch["image"].mean()) - 30) <= 1
    assert batch["label"].argmax() == 30 % 21


def test_the_draw_is_pinned(tmp_path):
    folder = official(tmp_path)
    splits = nus_wide_21(folder, counts=TINY, num_validation=2)
    assert splits.digest == "be48e8470053e65e7aea3abd0cf53312a40c2e2ec42b26cb2531ff67d17c328c"
    assert nus_wide_21(folder, counts=TINY, num_validation=2, seed=1).digest != splits.digest
    assert nus_wide_21(folder, counts=TINY, num_validation=3).digest != splits.digest


def test_missing_photos_are_named_and_may_be_left_out(tmp_path):
    folder = official(tmp_path)
    whole = nus_wide_21(folder, counts=TINY, num_validation=2)
    for photo in sorted(folder.glob("Flickr/part1/*.jpg"))[:4]:
        photo.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"nus_wide_21: 4 of 105 photos are missing in .*Flickr, such as "
        r"part1/0001_37.jpg, part1/0004_148.jpg, part1/0007_259.jpg; get them",
    ):
        nus_wide_21(folder, counts=TINY, num_validation=2)
    rest = nus_wide_21(folder, counts=TINY, num_validation=2, allow_incomplete=True)
    assert rest.name == "nus_wide_21 incomplete"
    assert rest.digest != whole.digest
    gone = [1, 4, 7, 10]
    for name in ("train", "validation", "query", "database"):
        np.testing.assert_array_equal(getattr(rest, name), np.setdiff1d(getattr(whole, name), gone))


def test_other_counts_are_refused(tmp_path):
    folder = official(tmp_path)
    due = TINY._replace(photos=106, database=85)
    with pytest.raises(
        ValueError,
        match=r"nus_wide_21 must have 106 photos, got 105; 85 database, got 84\. This copy is not",
    ):
        nus_wide_21(folder, counts=due, num_validation=2)
    splits = nus_wide_21(folder, counts=due, num_validation=2, allow_incomplete=True)
    assert splits.name == "nus_wide_21 incomplete"
    (folder / "Flickr" / "part0" / "0000_0.jpg").unlink()
    splits = nus_wide_21(folder, counts=due, num_validation=2, allow_incomplete=True)
    assert splits.name == "nus_wide_21 incomplete"


def test_damaged_official_files_are_named(tmp_path):
    folder = official(tmp_path)
    file = folder / "Groundtruth" / "AllLabels" / "Labels_lake.txt"
    content = file.read_text()
    for wrong in (content[:-4], content.replace("1", "2"), content.replace("0\n", "")):
        file.write_text(wrong)
        with pytest.raises(
            ValueError, match=r"Labels_lake.txt must hold a 0 or 1 for each of the 109 photos of"
        ):
            nus_wide_21(folder, counts=TINY)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*Labels_lake.txt of a concept's labels"):
        nus_wide_21(folder, counts=TINY)
    image_list = folder / "ImageList" / "Imagelist.txt"
    names = image_list.read_text()
    image_list.write_text("a\\..\\..\\b.jpg\n" + names)
    with pytest.raises(ValueError, match=r"Imagelist.txt line 1: path .* leaves the root"):
        nus_wide_21(folder, counts=TINY)
    image_list.write_text(names + names)
    with pytest.raises(ValueError, match=r"Imagelist.txt names a photo twice; fetch it anew"):
        nus_wide_21(folder, counts=TINY)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        nus_wide_21(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError,
        match=r"no list of NUS-WIDE's images, looked for: ImageList/Imagelist.txt, Imagelist.txt",
    ):
        nus_wide_21(tmp_path)
    (tmp_path / "Imagelist.txt").write_text("a/b.jpg\n")
    with pytest.raises(FileNotFoundError, match="no folder of NUS-WIDE's labels, looked for: Gro"):
        nus_wide_21(tmp_path)
    (tmp_path / "train.txt").write_text("b.jpg 1 0")
    with pytest.raises(
        FileNotFoundError, match=r"lacks test.txt and database.txt; train.txt, test.txt and data"
    ):
        nus_wide_21(tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"nus_wide_81 is defined by the list files"):
        nus_wide_81(tmp_path)


@pytest.mark.parametrize(
    ("protocol", "num_classes", "name"),
    [(nus_wide_21, 21, "nus_wide_21"), (nus_wide_81, 81, "nus_wide_81")],
)
def test_lists_of_the_field_are_taken_as_they_are(tmp_path, protocol, num_classes, name):
    folder = listed(tmp_path, num_classes, (4, 3, 9))
    counts = Counts(photos=12, classes=num_classes, query=3, train=4, database=9)
    splits = protocol(folder, counts=counts, num_validation=1)
    assert splits.name == name
    assert splits.source.labels.shape == (12, num_classes)
    assert {splits.source.paths[row].name for row in splits.query} == {
        "0_0_m.jpg",
        "1_37_m.jpg",
        "2_74_m.jpg",
    }
    assert [len(splits.train), len(splits.validation), len(splits.database)] == [3, 1, 9]
    (folder / "test.txt").rename(folder / "query.txt")
    assert protocol(folder, counts=counts, num_validation=1).digest == splits.digest
    (folder / "images" / "5_185_m.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: 1 of 12 photos .* such as 5_185_m.jpg;"):
        protocol(folder, counts=counts, num_validation=1)


def test_lists_of_another_number_of_concepts_are_refused(tmp_path):
    folder = listed(tmp_path, 21, (4, 3, 9))
    with pytest.raises(
        ValueError,
        match=r"nus_wide_81 must have 223,496 photos, got 12; 81 classes, got 21; 5,000 query, "
        r"got 3; 10,000 train, got 4\. This copy",
    ):
        nus_wide_81(folder)


def test_counts_of_whole_copies_are_those_of_the_field():
    assert COUNTS_21 == (195_834, 21, 2_100, 10_500, 193_734)
    assert COUNTS_21.photos == COUNTS_21.query + COUNTS_21.database
    assert COUNTS_81 == (223_496, 81, 5_000, 10_000, None)


def test_official_files_of_full_size_are_counted(tmp_path, rng):
    num_photos = 269_648
    (tmp_path / "Imagelist.txt").write_text(
        "".join(f"part{row % 700}\\{row}_{row}.jpg\n" for row in range(num_photos))
    )
    (tmp_path / "AllLabels").mkdir()
    labels = np.zeros((num_photos, 21), np.uint8)
    labels[np.arange(195_834), rng.integers(21, size=195_834)] = 1
    text = np.full((num_photos, 2), ord("\n"), np.uint8)
    for column, name in enumerate(CONCEPTS):
        text[:, 0] = labels[:, column] + ord("0")
        (tmp_path / "AllLabels" / f"Labels_{name}.txt").write_bytes(text.tobytes())
    with pytest.raises(FileNotFoundError, match=r"nus_wide_21: 195,834 of 195,834 photos are miss"):
        nus_wide_21(tmp_path)
    text[195_834, 0] = ord("1")
    (tmp_path / "AllLabels" / "Labels_window.txt").write_bytes(text.tobytes())
    with pytest.raises(
        ValueError, match=r"195,834 photos, got 195,835; 193,734 database, got 193,735\. This copy"
    ):
        nus_wide_21(tmp_path)
