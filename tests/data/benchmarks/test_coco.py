import json
import sys

import numpy as np
import pytest

from quantjax.data import coco
from quantjax.data.benchmarks import Counts
from quantjax.data.benchmarks.coco import COUNTS
from tests.data.photo_files import write_list, write_photo

pytest.importorskip("PIL")

MODULE = "quantjax.data.benchmarks.coco"  # the function has the name of its module
TINY = Counts(photos=18, classes=3, query=3, train=5, database=15)
CATEGORIES = [{"id": 44, "name": "bottle"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]


def annotate(folder, year, file_name, validation):
    """Twenty photos of ids 100 to 119, of which 100 and 119 show nothing."""
    (folder / "annotations").mkdir(exist_ok=True)
    for part in ("train", "val"):
        ids = [n for n in range(119, 99, -1) if (n in validation) == (part == "val")]
        names = {n: file_name(part, n) for n in ids}
        boxes = [
            {"image_id": n, "category_id": (1, 3, 44)[n % 3]} for n in ids if n not in (100, 119)
        ]
        boxes += [{"image_id": n, "category_id": 1} for n in ids if 104 <= n < 108]
        content = {
            "images": [{"id": n, "file_name": name} for n, name in names.items()],
            "annotations": boxes,
            "categories": CATEGORIES,
        }
        (folder / "annotations" / f"instances_{part}{year}.json").write_text(json.dumps(content))
        for n, name in names.items():
            write_photo(folder / f"{part}{year}" / name, value=n)
    return folder


@pytest.fixture
def of_2014(tmp_path):
    return annotate(
        tmp_path, 2014, lambda part, n: f"COCO_{part}2014_{n:012d}.jpg", range(110, 120)
    )


def test_annotated_photos_of_both_parts_are_drawn_from(of_2014):
    splits = coco(of_2014, size=8, counts=TINY, num_validation=2)
    assert splits.name == "coco"
    assert [int(path.stem[-3:]) for path in splits.source.paths] == list(range(101, 119))
    assert splits.source.classes == ("person", "car", "bottle")
    assert splits.source.labels[0].tolist() == [0, 0, 1]
    assert splits.source.labels[3].tolist() == [1, 0, 1]
    assert [len(splits.train), len(splits.validation), len(splits.query)] == [3, 2, 3]
    np.testing.assert_array_equal(splits.database, np.setdiff1d(np.arange(18), splits.query))
    image = splits.source[np.array([2, 15])]["image"]
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), [103, 116], atol=1)


def test_the_draw_is_pinned_and_the_same_for_both_years(of_2014, tmp_path):
    splits = coco(of_2014, counts=TINY, num_validation=2)
    assert splits.digest == "2139763fbde1b64147a6ea522c97ced3d9766269c1020939bef537e77ffc4a59"
    assert coco(of_2014, counts=TINY, num_validation=2, seed=1).digest != splits.digest
    folder = tmp_path / "other"
    folder.mkdir()
    annotate(folder, 2017, lambda part, n: f"{n:012d}.jpg", [103, 111])
    other = coco(folder, counts=TINY, num_validation=2)
    assert other.digest == splits.digest
    np.testing.assert_array_equal(other.source.labels, splits.source.labels)


def test_lists_are_taken_before_annotations(of_2014):
    photos = [f"/elsewhere/coco/val2014/COCO_val2014_{n:012d}.jpg" for n in range(110, 120)]
    labels = [[n % 2, 1, 0] for n in range(10)]
    write_list(of_2014 / "test.txt", photos[:3], labels[:3])
    write_list(of_2014 / "database.txt", photos[3:], labels[3:])
    write_list(of_2014 / "train.txt", photos[3:8], labels[3:8])
    splits = coco(of_2014, counts=TINY, num_validation=2)
    assert [len(splits.train), len(splits.query), len(splits.database)] == [3, 3, 7]
    with pytest.raises(
        ValueError, match=r"coco must have 80 classes, got 3; 5,000 query, got 3; 10"
    ):
        coco(of_2014)


def test_what_is_missing_is_named(of_2014, tmp_path):
    with pytest.raises(ValueError, match=r"need more photos than 18"):
        coco(of_2014)
    with pytest.raises(ValueError, match=r"coco must have 19 photos, got 18; 16 database, got 15"):
        coco(of_2014, counts=TINY._replace(photos=19, database=16))
    (of_2014 / "val2014" / "COCO_val2014_000000000112.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 18 photos .* such as COCO_val2014_000000000112.jpg; get"
    ):
        coco(of_2014, counts=TINY, num_validation=2)
    (of_2014 / "annotations" / "instances_val2014.json").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"has neither the lists .* it lacks annotations/ instances_val2014.json or "
        r"instances_train2017.json and instances_val2017.json",
    ):
        coco(of_2014)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content["images"], "TypeError"),
        (lambda content: {**content, "categories": None}, "TypeError"),
        (lambda content: {"images": []}, "KeyError: 'annotations'"),
        (
            lambda content: {**content, "images": content["images"][1:]},
            "an object is of image 109 and category 3, which are not both described",
        ),
        (lambda content: {**content, "categories": CATEGORIES[:2]}, "category 3, which are not"),
        (lambda content: {**content, "images": [{"id": 1e999, "file_name": "a"}]}, "OverflowErr"),
        (
            lambda content: {
                **content,
                "categories": [*CATEGORIES, {"id": 2**63, "name": "large"}],
            },
            "an id is of more than 64 bits",
        ),
    ],
)
def test_damaged_annotations_are_named(of_2014, change, reason):
    file = of_2014 / "annotations" / "instances_train2014.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(
        ValueError, match=rf"cannot read COCO's annotations in .*train2014.json: .*{reason}"
    ):
        coco(of_2014, counts=TINY)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"cannot read COCO's annotations"):
        coco(of_2014, counts=TINY)


def test_a_file_name_that_leaves_the_folder_is_refused(of_2014):
    file = of_2014 / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    content["images"][3]["file_name"] = "../../etc/passwd"
    file.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"1 of 18 photos are missing in .* such as passwd"):
        coco(of_2014, counts=TINY, num_validation=2)


def test_more_categories_than_memory_are_refused(of_2014, monkeypatch):
    monkeypatch.setattr(sys.modules[MODULE], "_MOST_LABELS", 18 * 3)
    assert len(coco(of_2014, counts=TINY, num_validation=2).source) == 18
    monkeypatch.setattr(sys.modules[MODULE], "_MOST_LABELS", 18 * 3 - 1)
    with pytest.raises(ValueError, match=r"annotations describes 3 categories, which are not COCO"):
        coco(of_2014, counts=TINY)


def test_a_file_name_that_is_the_folder_above_is_refused(of_2014):
    file = of_2014 / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    content["images"][3]["file_name"] = "images/.."
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations: path '\.\.' leaves the root"):
        coco(of_2014, counts=TINY, num_validation=2)


def test_counts_of_a_whole_copy_add_up():
    assert COUNTS == (122_218, 80, 5_000, 10_000, 117_218)
    assert COUNTS.photos == COUNTS.query + COUNTS.database
