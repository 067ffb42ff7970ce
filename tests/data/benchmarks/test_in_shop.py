import tracemalloc

import numpy as np
import pytest

from quantjax.data import in_shop
from quantjax.data.benchmarks import Counts
from quantjax.data.benchmarks.listed import COUNTS_ITEMS
from tests.data.photo_files import write_photo

pytest.importorskip("PIL")

TINY = Counts(photos=33, classes=8, query=8, train=21, database=4)


def lines_of():
    """Items 0 to 5 train, with 1 to 6 photos; 6 and 7 have four queries, two in the gallery."""
    lines = []
    for item in range(6):
        lines += [
            (f"img/WOMEN/Tees/id_{item:08d}/{n:02d}_front.jpg", item, "train")
            for n in range(item + 1)
        ]
    for item in (6, 7):
        for n in range(6):
            part = "query" if n < 4 else "gallery"
            lines.append((f"img/MEN/Denim/id_{item:08d}/{n:02d}_back.jpg", item, part))
    return lines


def write_partition(folder, lines, count=None):
    text = "".join(f"{photo}   id_{item:08d} {part}\n" for photo, item, part in lines)
    (folder / "Eval").mkdir(exist_ok=True)
    (folder / "Eval" / "list_eval_partition.txt").write_text(
        f"{len(lines) if count is None else count}\nimage_name item_id evaluation_status\n{text}"
    )


@pytest.fixture
def folder(tmp_path):
    lines = lines_of()
    write_partition(tmp_path, lines)
    for photo, item, _ in lines:
        write_photo(tmp_path / "Img" / photo, value=20 * item)
    return tmp_path


def load(folder, num_validation_items=2, **keywords):
    return in_shop(
        folder, **{"counts": TINY, "num_validation_items": num_validation_items, **keywords}
    )


def test_the_partition_becomes_the_splits(folder):
    splits = load(folder, 0, size=8)
    assert splits.name == "in_shop"
    assert splits.source.classes == tuple(f"id_{item:08d}" for item in range(8))
    np.testing.assert_array_equal(splits.source.labels, [item for _, item, _ in lines_of()])
    parts = np.array([part for _, _, part in lines_of()])
    np.testing.assert_array_equal(splits.train, np.flatnonzero(parts == "train"))
    np.testing.assert_array_equal(splits.query, np.flatnonzero(parts == "query"))
    np.testing.assert_array_equal(splits.database, np.flatnonzero(parts == "gallery"))
    assert not len(splits.validation)
    batch = splits.source[np.array([0, 32])]
    np.testing.assert_allclose(batch["image"].mean(axis=(1, 2, 3)), [0, 140], atol=1)
    np.testing.assert_array_equal(batch["label"].argmax(axis=1), [0, 7])


def test_validation_is_the_task_on_items_that_do_not_train(folder):
    splits = load(folder)
    labels = splits.source.labels
    held = set(labels[splits.validation])
    assert len(held) == 2
    assert set(labels[splits.validation_database]) == held
    assert not held & set(labels[splits.train])
    for item in held:
        photos = (labels == item).sum()
        assert (labels[splits.validation] == item).sum() == photos // 2
        assert (labels[splits.validation_database] == item).sum() == photos - photos // 2
    rows = np.concatenate([splits.train, splits.validation, splits.validation_database])
    assert sorted(rows) == list(range(21))


def test_the_draw_is_pinned(folder):
    assert load(folder).digest == "22db92fb532c30a756ccb47fdc2150c3421dd08f30d4a39ce91c7453f29730ee"
    assert load(folder, seed=1).digest != load(folder).digest
    assert load(folder, 3).digest != load(folder).digest


def test_photos_may_lie_beside_the_partition(folder):
    (folder / "Img" / "img").rename(folder / "img")
    (folder / "Eval" / "list_eval_partition.txt").rename(folder / "list_eval_partition.txt")
    assert len(load(folder).query) == 8


@pytest.mark.parametrize("num_validation_items", [-1, 5, 6])
def test_validation_leaves_items_to_train(folder, num_validation_items):
    with pytest.raises(ValueError, match=rf"must be smaller, got {num_validation_items} of 5"):
        load(folder, num_validation_items)


def test_missing_photos_are_named_and_may_be_left_out(folder):
    (folder / "Img" / lines_of()[-1][0]).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"in_shop: 1 of 33 photos are missing in .*Img, such as img/MEN/Denim/id_00000007/05",
    ):
        load(folder)
    splits = load(folder, allow_incomplete=True)
    assert splits.name == "in_shop incomplete"
    assert len(splits.database) == 3
    np.testing.assert_array_equal(splits.query, np.arange(21, 33)[[0, 1, 2, 3, 6, 7, 8, 9]])


@pytest.mark.parametrize(
    ("lines", "count", "message"),
    [
        (lines_of()[:-1], None, "in_shop must have 33 photos, got 32; 4 database, got 3"),
        (lines_of()[:-1], 33, "says in line 1 that it lists '33' photos, got 32; fetch it anew"),
        (lines_of(), "", "says in line 1 that it lists '' photos, got 33"),
        ([("a.jpg", 1, "test")], None, "line 3: must be a photo, its item, and train, query or"),
        ([("a b.jpg", 1, "train")], None, "line 3: must be a photo, its item"),
        ([("/a.jpg", 1, "train")], None, "line 3: path '/a.jpg' is absolute"),
        ([("../a.jpg", 1, "train")], None, "line 3: path '../a.jpg' leaves the root"),
        (
            [("a.jpg", 1, "train"), ("./a.jpg", 1, "query")],
            None,
            "line 4: photo a.jpg is listed already",
        ),
        (
            [("a.jpg", 1, "train"), ("b.jpg", 1, "query")],
            None,
            "item id_00000001 trains and is searched for as well",
        ),
    ],
)
def test_wrong_partitions_are_named(folder, lines, count, message):
    write_partition(folder, lines, count)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_long_name_of_an_item_costs_its_length_once(folder):
    file = folder / "Eval" / "list_eval_partition.txt"
    name = "x" * 10**6
    file.write_text(file.read_text().replace("id_00000000 train", f"{name} train"))
    tracemalloc.start()
    assert load(folder, 0).source.classes[-1] == name
    assert tracemalloc.get_traced_memory()[1] < 4 * 10**7
    tracemalloc.stop()


def test_an_empty_or_missing_partition_is_named(folder):
    file = folder / "Eval" / "list_eval_partition.txt"
    file.write_text("")
    with pytest.raises(ValueError, match="says in line 1 that it lists '' photos, got 0"):
        load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no partition of In-shop, looked for: Eval/list"):
        load(folder)


def test_counts_of_a_whole_copy_add_up():
    assert COUNTS_ITEMS == (52_712, 7_982, 14_218, 25_882, 12_612)
    assert COUNTS_ITEMS.photos == COUNTS_ITEMS.query + COUNTS_ITEMS.train + COUNTS_ITEMS.database
