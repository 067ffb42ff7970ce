import numpy as np
import pytest

from quantjax.data import imagenet_100
from quantjax.data.benchmarks import Counts
from quantjax.data.benchmarks.listed import COUNTS_100
from tests.data.photo_files import write_list, write_photo

pytest.importorskip("PIL")

TINY = Counts(photos=None, classes=3, query=2, train=4, database=9)
THERE = "/elsewhere/imagenet"


@pytest.fixture
def folder(tmp_path):
    """ImageNet's own folders, and lists with absolute paths of HashNet's flat ones."""
    photos = [f"n0{row % 3}_{row}.JPEG" for row in range(9)]
    queries = [f"ILSVRC2012_val_{row:08d}.JPEG" for row in range(2)]
    for row, photo in enumerate(photos):
        write_photo(tmp_path / "train" / photo.split("_")[0] / photo, value=10 * row)
    for photo in queries:
        write_photo(tmp_path / "val" / photo, value=200)
    one_hot = np.eye(3, dtype=int)[[row % 3 for row in range(9)]]
    paths = [f"{THERE}/image/{photo}" for photo in photos]
    write_list(tmp_path / "database.txt", paths, one_hot)
    write_list(tmp_path / "train.txt", paths[:4], one_hot[:4])
    write_list(tmp_path / "test.txt", [f"{THERE}/val_image/{q}" for q in queries], one_hot[:2])
    return tmp_path


def test_photos_are_found_by_name_in_the_official_folders(folder):
    splits = imagenet_100(folder, size=8, counts=TINY, num_validation=1)
    assert splits.name == "imagenet_100"
    assert [len(splits.train), len(splits.validation)] == [3, 1]
    assert np.isin(splits.train, splits.database).all()
    assert len(splits.validation_database) == 8
    image = splits.source[splits.query]["image"]
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), [200, 200], atol=1)
    for row in splits.database:
        number = int(splits.source.paths[row].stem.split("_")[1])
        assert splits.source.labels[row].argmax() == number % 3
        assert abs(splits.source[np.array([row])]["image"].mean() - 10 * number) <= 1


def test_the_validation_draw_is_pinned(folder):
    splits = imagenet_100(folder, counts=TINY, num_validation=1)
    assert splits.digest == "d153dd6bd2238b928c240a43cc4a62c68dccbd04ce75be5840cd806758aa192f"
    others = {imagenet_100(folder, counts=TINY, num_validation=1, seed=s).digest for s in range(30)}
    assert len(others) == 4


def test_another_split_is_refused_by_its_counts(folder):
    assert COUNTS_100 == (None, 100, 5_000, 13_000, 128_503)
    with pytest.raises(
        ValueError,
        match=r"imagenet_100 must have 100 classes, got 3; 5,000 query, got 2; 13,000 train, "
        r"got 4; 128,503 database, got 9\. This copy is not whole, or another split",
    ):
        imagenet_100(folder)
    splits = imagenet_100(folder, num_validation=0, allow_incomplete=True)
    assert splits.name == "imagenet_100 incomplete"


def test_missing_lists_and_photos_are_named(folder):
    (folder / "train" / "n01" / "n01_4.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 11 photos .* such as n01_4.JPEG; get them"):
        imagenet_100(folder, counts=TINY, num_validation=1)
    for name in ("train.txt", "test.txt", "database.txt"):
        (folder / name).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"imagenet_100 is defined by the list files .* of HashNet \(github.com/thuml/HashNet",
    ):
        imagenet_100(folder)
