import numpy as np
import pytest

from quantjax.data import audit, cifar10, cifar10_unseen, final, from_arrays, unseen_classes

LISTS = ("train", "validation", "query", "database", "validation_database")


def source_of(label, **keywords):
    image = np.arange(len(label), dtype="<u4").view(np.uint8).reshape(-1, 1, 4, 1)
    return from_arrays(image, label, **keywords)


def single_label(num_classes, per_class):
    return source_of(np.arange(num_classes * per_class) % num_classes)


def classes_of(splits):
    """The classes of each list's rows."""
    labels = splits.source.labels
    return {name: set(np.flatnonzero(labels[getattr(splits, name)].any(axis=0))) for name in LISTS}


def assert_apart(splits):
    """Asserts that train, validation and the unseen part share no class."""
    found = classes_of(splits)
    assert found["query"] <= found["database"]
    assert found["validation"] <= found["validation_database"]
    parts = (found["train"], found["validation_database"], found["database"])
    assert len(set.union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize(
    ("num_classes", "keywords", "sizes"),
    [
        (10, {}, (5, 2, 3)),
        (100, {}, (57, 18, 25)),
        (6, {}, (2, 2, 2)),
        (10, {"seen_share": 0.5}, (3, 2, 5)),
        (100, {"seen_share": 0.29, "validation_share": 0.5}, (15, 14, 71)),
        (10, {"validation_share": 0.5}, (4, 3, 3)),
        (10, {"validation_share": 0.01}, (5, 2, 3)),
        (10, {"validation_share": 0}, (7, 0, 3)),
    ],
)
def test_classes_are_shared_out_as_asked(num_classes, keywords, sizes):
    splits = unseen_classes(single_label(num_classes, 9), query_per_class=4, **keywords)
    train, validation, unseen = sizes
    assert len(splits.train) == 9 * train
    assert len(splits.validation) == 4 * validation
    assert len(splits.query) == 4 * unseen
    assert len(splits.database) == 5 * unseen
    if validation:
        assert len(splits.validation_database) == 5 * validation
        assert_apart(splits)
    else:
        assert splits.validation_searches is None
    assert splits.name == "unseen_classes"


def test_queries_are_drawn_evenly_from_every_class():
    splits = unseen_classes(single_label(10, 30), query_per_class=7)
    for name, count in (("query", 7), ("database", 23), ("validation", 7)):
        counts = splits.source.labels[getattr(splits, name)].sum(axis=0)
        assert set(counts.tolist()) == {0, count}


def test_classes_are_drawn_by_the_seed():
    source = single_label(10, 9)
    draws = [unseen_classes(source, query_per_class=4, seed=seed) for seed in (0, 0, 1, 2)]
    assert draws[0].digest == draws[1].digest
    unseen = {frozenset(classes_of(splits)["query"]) for splits in draws}
    assert len(unseen) == 3


def test_the_unseen_part_does_not_depend_on_validation():
    source = single_label(10, 9)
    first, *others = (
        unseen_classes(source, query_per_class=4, seed=3, validation_share=share)
        for share in (0, 0.25, 0.5)
    )
    for other in others:
        np.testing.assert_array_equal(other.query, first.query)
        np.testing.assert_array_equal(other.database, first.database)


def test_final_trains_on_all_seen_classes():
    source = single_label(10, 9)
    last = final(unseen_classes(source, query_per_class=4, seed=3))
    whole = unseen_classes(source, query_per_class=4, seed=3, validation_share=0)
    assert last.digest == whole.digest
    assert last.name == "unseen_classes final"
    assert len(last.train) == 63


def test_multi_label_rows_lie_in_one_part_or_in_none(rng):
    label = (rng.random((4_000, 12)) < 0.1).astype(np.uint8)
    splits = unseen_classes(source_of(label), query_per_class=5)
    assert_apart(splits)
    used = np.concatenate([getattr(splits, name) for name in LISTS])
    assert len(np.unique(used)) == len(used)
    assert label[used].any(axis=1).all()
    assert label[used].sum(axis=1).max() > 1
    groups = classes_of(splits)
    columns = [list(groups[name]) for name in ("train", "validation_database", "database")]
    due = sum(
        label[:, part].any(axis=1) & ~np.delete(label, part, axis=1).any(axis=1) for part in columns
    )
    np.testing.assert_array_equal(np.sort(used), np.flatnonzero(due))
    for class_id in groups["query"]:
        assert label[splits.query, class_id].sum() >= 5


def test_a_row_is_drawn_for_one_of_its_labels_only():
    # Rows of classes (0, 1), (2, 3), ...: a part that has both of a pair has rows, others none.
    label = np.repeat(np.eye(3, dtype=np.uint8), 2, axis=1)[np.arange(60) % 3]
    drawn = 0
    for seed in range(40):
        try:
            splits = unseen_classes(
                source_of(label), query_per_class=4, seed=seed, validation_share=0
            )
        except ValueError:  # the two unseen classes are no pair
            continue
        assert (len(splits.query), len(splits.database)) == (8, 12)
        drawn += 1
    assert drawn > 4


def test_the_audit_finds_no_fault():
    found = audit(unseen_classes(single_label(10, 9), query_per_class=4))
    assert not any(found.shared_rows.values())
    assert not any(found.shared_images.values())
    assert not any(found.zero_queries.values())
    assert len(found.absent_classes["train"]) == 5
    assert len(found.absent_classes["database"]) == 7


def test_cifar10_unseen_takes_its_numbers():
    splits = cifar10_unseen(single_label(10, 6_000))
    assert [len(getattr(splits, name)) for name in LISTS] == [30_000, 2_000, 3_000, 15_000, 10_000]
    assert_apart(splits)
    assert splits.name == "cifar10_unseen"
    assert splits.digest == "9b6d2a0c818ee0fe759f30bf4ef1dab99d7a6e2da1bd0653839d63d3f81b46d9"


@pytest.mark.data
def test_real_cifar10_unseen_is_pinned(data_dir):
    splits = cifar10_unseen(cifar10(data_dir))
    assert splits.digest == "c031e96aa9f9fff0247f692647818743b3c0b3f6bff884bd7ef74414608848d6"
    assert final(splits).digest == (
        "0595d12d3cf5762a93d7c0d27356de360863cc910afe51964676a1c3a75dd3db"
    )


@pytest.mark.parametrize(
    ("num_classes", "per_class", "message"),
    [(10, 5_999, "got 59990 images of 10 classes"), (6, 6_000, "got 36000 images of 6 classes")],
)
def test_another_source_than_cifar10_is_refused(num_classes, per_class, message):
    with pytest.raises(ValueError, match=message):
        cifar10_unseen(single_label(num_classes, per_class))


@pytest.mark.parametrize(
    ("num_classes", "keywords", "message"),
    [
        (
            10,
            {"query_per_class": 9},
            "class . must have 10 images or more to draw from, got 9; ask",
        ),
        (10, {"query_per_class": 0}, "query_per_class must be 1 or more, got 0"),
        (10, {"seen_share": 1.0}, "seen_share must be between 0 and 1, .* got 1.0 and 0.25"),
        (10, {"seen_share": 0.0}, "got 0.0 and 0.25"),
        (10, {"validation_share": 1.0}, "got 0.75 and 1.0"),
        (10, {"validation_share": -0.1}, "got 0.75 and -0.1"),
        (5, {}, "2 classes or more each, got 1 train, 2 validation, 2 unseen of 5 classes"),
        (10, {"seen_share": 0.95}, "got 7 train, 2 validation, 1 unseen of 10 classes"),
        (4, {"validation_share": 0}, "got 3 train, 2 validation, 1 unseen of 4 classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(num_classes, keywords, message):
    with pytest.raises(ValueError, match=message):
        unseen_classes(single_label(num_classes, 9), **{"query_per_class": 4, **keywords})
