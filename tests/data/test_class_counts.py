"""Class ids are counted as the one-hot labels that they stand for."""

import numpy as np
import pytest

from quantjax.data import (
    audit,
    cifar10_seen_unseen,
    cifar10_unseen,
    class_counts,
    file_lists,
    from_arrays,
    make_splits,
    mnist5k,
    protocol_i,
    protocol_ii,
    unseen_classes,
)
from tests.data.class_id_source import ClassIdSource
from tests.data.photo_files import write_list, write_photo

MULTI_HOT = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], np.uint8)
IDS = np.array([2, 0, 0, 4])


def both_kinds(class_ids):
    image = np.arange(len(class_ids), dtype="<u4").view(np.uint8).reshape(-1, 1, 4, 1)
    source = from_arrays(image, class_ids)
    return source, ClassIdSource(source)


def test_labels_of_a_row_are_counted():
    np.testing.assert_array_equal(class_counts.num_labels(MULTI_HOT), [2, 0, 1, 3])
    np.testing.assert_array_equal(class_counts.num_labels(IDS), [1, 1, 1, 1])


def test_labels_of_chosen_classes_are_counted():
    chosen = np.array([True, False, True])
    np.testing.assert_array_equal(class_counts.num_labels_among(MULTI_HOT, chosen), [2, 0, 0, 2])
    chosen = np.array([True, False, False, True, True])
    np.testing.assert_array_equal(class_counts.num_labels_among(IDS, chosen), [0, 1, 1, 1])


def test_rows_of_a_class_are_counted():
    np.testing.assert_array_equal(class_counts.rows_per_class(MULTI_HOT, 3), [2, 2, 2])
    np.testing.assert_array_equal(class_counts.rows_per_class(IDS, 6), [2, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(class_counts.rows_per_class(IDS[:0], 2), [0, 0])


def test_class_ids_are_found_in_either_kind():
    np.testing.assert_array_equal(class_counts.class_ids(np.eye(3, dtype=np.uint8)), [0, 1, 2])
    np.testing.assert_array_equal(class_counts.class_ids(IDS), IDS)
    with pytest.raises(ValueError, match="rows must have one label each, got 2 in row 0"):
        class_counts.class_ids(MULTI_HOT)
    with pytest.raises(ValueError, match="got 0 in row 1"):
        class_counts.class_ids(MULTI_HOT[[2, 1]])


@pytest.mark.parametrize("wrong", [[0, 3], [-1, 0]])
def test_class_ids_without_a_class_are_refused(wrong):
    message = f"class ids must lie in 0 to 2, got {min(wrong)} to {max(wrong)}"
    with pytest.raises(ValueError, match=message):
        class_counts.rows_per_class(np.array(wrong), 3)
    with pytest.raises(ValueError, match=message):
        class_counts.num_labels_among(np.array(wrong), np.ones(3, bool))


@pytest.mark.parametrize(
    ("protocol", "num_classes", "per_class"),
    [
        (mnist5k, 10, 500),
        (lambda source: protocol_i(source, query_per_class=2, train_per_class=60), 4, 80),
        (lambda source: protocol_ii(source, num_train=200, validation_per_class=3), 4, 80),
        (lambda source: unseen_classes(source, query_per_class=4, seed=3), 10, 9),
        (cifar10_unseen, 10, 6_000),
        (lambda source: cifar10_seen_unseen(source)["seen_in_both"], 10, 6_000),
    ],
)
def test_a_protocol_draws_the_same_rows_from_class_ids(protocol, num_classes, per_class, rng):
    multi_hot, ids = both_kinds(rng.permutation(num_classes * per_class) % num_classes)
    assert ids.labels.shape == (num_classes * per_class,)
    assert protocol(ids).digest == protocol(multi_hot).digest


def test_cifar10_unseen_refuses_other_class_ids():
    _, ids = both_kinds(np.arange(59_990) % 10)
    with pytest.raises(ValueError, match="got 59990 images of 10 classes"):
        cifar10_unseen(ids)


def test_an_audit_finds_the_same_in_class_ids(rng):
    multi_hot, ids = both_kinds(np.append(rng.integers(0, 30, 59), 30))
    rows = np.split(rng.permutation(60), [20, 26, 40])
    lists = dict(zip(("train", "validation", "query", "database"), rows, strict=True))
    due, got = (audit(make_splits(source, **lists)) for source in (multi_hot, ids))
    assert got == due
    assert got.label_shape == [60, 31]
    assert got.zero_queries["query"] > 0
    assert got.zero_queries["validation"] > 0
    assert got.absent_classes["train"]


def test_an_audit_takes_lists_of_class_ids(tmp_path):
    ids = {f"{number}.png": [7, 0, 7, 2, 7, 3][number] for number in range(6)}
    for number, name in enumerate(ids):
        write_photo(tmp_path / name, 20 * number)
    lists = {}
    for part, photos in (("train", [0, 1]), ("query", [2, 3]), ("database", [4, 5])):
        names = [f"{number}.png" for number in photos]
        lists[part] = write_list(tmp_path / f"{part}.txt", names, [[ids[name]] for name in names])
    found = audit(file_lists(tmp_path, **lists))
    assert found.label_shape == [6, 8]
    assert found.zero_queries == {"query": 1, "validation": 0}
    assert found.absent_classes["query"] == ["0", "1", "3", "4", "5", "6"]


def test_lists_renumber_class_ids_with_wide_gaps(tmp_path):
    ids = [999_999, 3, 999_999, 3]
    lists = {}
    for part, photos in (("train", [0, 1]), ("query", [2]), ("database", [3])):
        for number in photos:
            write_photo(tmp_path / f"{number}.png", 20 * number)
        names = [f"{number}.png" for number in photos]
        lists[part] = write_list(tmp_path / f"{part}.txt", names, [[ids[i]] for i in photos])
    with pytest.warns(UserWarning, match="renumbered 0 to 1"):
        source = file_lists(tmp_path, **lists).source
    np.testing.assert_array_equal(source.labels, [1, 0, 1, 0])
    assert source.classes == ("3", "999999")
    assert source[np.array([0])]["label"].shape == (1, 2)


@pytest.mark.parametrize("labels", [[[0, 1], [1, 1], [1, 0]], [3, 1, 3]])
def test_labels_of_several_classes_can_train(labels):
    class_counts.check_labels(np.array(labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[0, 1], [0, 0], [1, 0], [0, 0]],
            "2 of 4 training rows have no class: 1, 3; give them one",
        ),
        (
            [[0, 1], [1, 1]],
            "all 2 training rows share a class, so there are no negatives; train on",
        ),
        ([5, 5, 5], "all 3 training rows share a class"),
        ([5, 7, 0], "no two of the 3 training rows share a class, so there are no positives; tr"),
        ([[0, 1], [1, 0]], "no two of the 2 training rows share a class"),
        (np.zeros((7, 0)), "7 of 7 training rows have no class: 0, 1, 2, 3, 4, and 2 more; give"),
        ([[[1]]], r"class ids \[N\], or zeros and ones \[N, L\], got int64 \(1, 1, 1\)"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_counts.check_labels(np.array(labels))
