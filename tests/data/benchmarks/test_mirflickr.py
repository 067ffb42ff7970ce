import numpy as np
import pytest

from quantjax.data import mirflickr_25k
from quantjax.data.benchmarks import Counts
from quantjax.data.benchmarks.concepts import COUNTS_25K, TOPICS
from tests.data.photo_files import write_photo

pytest.importorskip("PIL")

TINY = Counts(photos=26, classes=24, query=4, train=6, database=22)


@pytest.fixture
def folder(tmp_path):
    """Photos 2 to 27 have topics, the first and the last have none."""
    annotations = tmp_path / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    for column, topic in enumerate(TOPICS):
        numbers = [number for number in range(2, 28) if number % 24 in (column, 0)]
        (annotations / f"{topic}.txt").write_text("".join(f"{number}\r\n" for number in numbers))
    (annotations / "sky_r1.txt").write_text("1\n")
    (annotations / "README.txt").write_text("Annotations")
    for number in range(1, 29):
        write_photo(tmp_path / "mirflickr" / f"im{number}.jpg", value=number)
    return tmp_path


def test_photos_with_a_topic_are_drawn_from(folder):
    splits = mirflickr_25k(folder, size=8, counts=TINY, num_validation=2)
    assert splits.name == "mirflickr_25k"
    assert [path.name for path in splits.source.paths] == [f"im{n}.jpg" for n in range(2, 28)]
    assert splits.source.classes == TOPICS
    assert splits.source.labels[0].tolist() == [0, 0, 1] + [0] * 21
    assert splits.source.labels[22].tolist() == [1] * 24
    assert [len(splits.train), len(splits.validation), len(splits.query)] == [4, 2, 4]
    np.testing.assert_array_equal(splits.database, np.setdiff1d(np.arange(26), splits.query))
    assert abs(splits.source[np.array([3])]["image"].mean() - 5) <= 1


def test_the_draw_is_pinned(folder):
    splits = mirflickr_25k(folder, counts=TINY, num_validation=2)
    assert splits.digest == "040f3717aae4d385c5b5f11ffb411b87ba3590a94ad9d2e0a544847b15bbd077"
    assert mirflickr_25k(folder, counts=TINY, num_validation=2, seed=1).digest != splits.digest
    (folder / "mirflickr" / "im28.jpg").unlink()
    assert mirflickr_25k(folder, counts=TINY, num_validation=2).digest == splits.digest


def test_both_archives_may_lie_in_one_folder(folder):
    for part in ("mirflickr", "mirflickr25k_annotations_v080"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    assert len(mirflickr_25k(folder, counts=TINY, num_validation=2).source) == 26


def test_what_is_wrong_is_named(folder):
    with pytest.raises(
        ValueError, match="2000 queries and 5000 training photos need more photos than 26"
    ):
        mirflickr_25k(folder)
    with pytest.raises(ValueError, match="mirflickr_25k must have 27 photos, got 26; 23 database"):
        mirflickr_25k(folder, counts=TINY._replace(photos=27, database=23))
    (folder / "mirflickr" / "im5.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 26 photos are missing in .*mirflickr, such as im5.jpg;"
    ):
        mirflickr_25k(folder, counts=TINY, num_validation=2)
    topic = folder / "mirflickr25k_annotations_v080" / "sea.txt"
    for word in ("0", "25001", "im5.jpg", "-1", "9" * 5_000, "\u00b2"):
        topic.write_text(f"3\n{word}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"sea.txt must hold numbers of photos from 1 to 25,0"):
            mirflickr_25k(folder, counts=TINY)
    topic.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*sea.txt of a topic's photos"):
        mirflickr_25k(folder, counts=TINY)


def test_no_annotations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of MIRFLICKR's annotations, looked for"):
        mirflickr_25k(tmp_path)


def test_counts_of_a_whole_copy_add_up():
    assert COUNTS_25K == (24_581, 24, 2_000, 5_000, 22_581)
    assert COUNTS_25K.photos == COUNTS_25K.query + COUNTS_25K.database
