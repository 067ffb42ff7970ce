"""The four evaluations share one training, and their rows are apart."""

import numpy as np
import pytest

from quantjax.data import (
    audit,
    cifar10,
    cifar10_seen_unseen,
    fashion_mnist,
    fashion_mnist_seen_unseen,
    final,
    from_arrays,
    omniglot,
    omniglot_seen_unseen,
    seen_unseen,
    with_train,
)
from quantjax.errors import InputError

KEYS = ["seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both"]
SMALL = {
    "query_per_class": 3,
    "database_per_class": 5,
    "train_per_class": 9,
    "validation_per_class": 2,
}


def source_of(label, **keywords):
    image = np.arange(len(label), dtype="<u4").view(np.uint8).reshape(-1, 1, 4, 1)
    return from_arrays(image, label, **keywords)


def single_label(num_classes, per_class):
    return source_of(np.arange(num_classes * per_class) % num_classes)


def characters(alphabets):
    names = [
        f"{name}-character{n:02}" for name, last in alphabets.items() for n in range(1, last + 1)
    ]
    return source_of(np.repeat(np.arange(len(names)), 20), classes=names)


ALPHABETS = {"Early_Aramaic": 2, "Greek": 2, "Japanese_katakana": 1, "Korean": 2, "Tagalog": 1}


def classes_of(splits, rows):
    return set(np.flatnonzero(splits.source.labels[rows].any(axis=0)))


def counts_of(splits, rows):
    """Number of rows of each class that has any."""
    counts = splits.source.labels[rows].sum(axis=0)
    return set(counts[counts > 0].tolist())


@pytest.fixture(scope="module")
def four():
    return seen_unseen(single_label(10, 20), **SMALL)


def test_the_four_share_train_and_validation(four):
    assert list(four) == KEYS == [splits.name for splits in four.values()]
    first, *others = four.values()
    for other in others:
        for name in ("train", "validation", "validation_database"):
            np.testing.assert_array_equal(getattr(other, name), getattr(first, name))
    assert len({splits.digest for splits in four.values()}) == 4


def test_queries_and_database_are_of_the_classes_that_the_key_says(four):
    seen, unseen = (classes_of(four[key], four[key].query) for key in KEYS[:2])
    assert (len(seen), len(unseen), seen & unseen) == (7, 3, set())
    for key, queries, database in zip(
        KEYS,
        (seen, unseen, unseen, seen),
        (seen, unseen, seen | unseen, seen | unseen),
        strict=True,
    ):
        assert classes_of(four[key], four[key].query) == queries
        assert classes_of(four[key], four[key].database) == database
        assert counts_of(four[key], four[key].query) == {3}
        assert counts_of(four[key], four[key].database) == {5}


def test_validation_asks_of_trained_and_untrained_classes_in_both(four):
    splits = four["seen_in_seen"]
    trained = classes_of(splits, splits.train)
    asking = classes_of(splits, splits.validation)
    assert len(trained) == 5
    assert asking == classes_of(splits, splits.validation_database) > trained
    assert asking == classes_of(splits, splits.query)
    assert counts_of(splits, splits.train) == {9 - 2 - 2}
    # Of classes held out, all rows but those that are searched ask.
    assert counts_of(splits, splits.validation) == {2, 9 - 2}
    assert counts_of(splits, splits.validation_database) == {2}


def test_no_row_has_two_uses(four):
    splits = four["seen_in_both"]
    used = [splits.train, splits.validation, splits.validation_database, splits.database]
    used = np.concatenate([*used, splits.query, four["unseen_in_both"].query])
    assert len(np.unique(used)) == len(used) == 7 * (3 + 5 + 9) + 3 * (3 + 5)


def test_final_trains_the_same_rows_for_all_four(four):
    rows = {key: final(splits).train for key, splits in four.items()}
    for key in KEYS:
        np.testing.assert_array_equal(rows[key], rows["seen_in_seen"])
    assert counts_of(four["seen_in_seen"], rows["seen_in_seen"]) == {9}
    assert len(rows["seen_in_seen"]) == 7 * 9


def test_training_rows_are_searched_only_if_added(four):
    splits = four["unseen_in_both"]
    assert not np.isin(splits.train, splits.database).any()
    assert np.isin(splits.train, with_train(splits).database).all()


def test_the_audit_finds_no_fault(four):
    for splits in four.values():
        found = audit(splits)
        assert not any(found.shared_rows.values())
        assert not any(found.shared_images.values())
        assert not any(found.zero_queries.values())


def test_classes_are_drawn_by_the_seed_or_given():
    source = single_label(10, 20)
    draws = [seen_unseen(source, **SMALL, seed=seed) for seed in (0, 0, 1)]
    digests = [each["unseen_in_both"].digest for each in draws]
    assert digests[0] == digests[1] != digests[2]
    given = seen_unseen(source, unseen=("7", "0"), validation=("3",), **SMALL)["unseen_in_unseen"]
    assert classes_of(given, given.query) == {0, 7}
    assert classes_of(given, given.train) == {1, 2, 4, 5, 6, 8, 9}


def test_the_unseen_part_does_not_depend_on_validation():
    source = single_label(10, 20)
    one, other = (seen_unseen(source, validation=n, **SMALL)["unseen_in_unseen"] for n in (1, 3))
    np.testing.assert_array_equal(one.query, other.query)
    np.testing.assert_array_equal(one.database, other.database)


def test_all_other_rows_train_if_no_number_is_given(four):
    sizes = {**SMALL, "train_per_class": None}
    splits = seen_unseen(single_label(10, 25), **sizes)["seen_in_seen"]
    assert counts_of(splits, splits.train) == {25 - 3 - 5 - 2 - 2}
    assert counts_of(splits, final(splits).train) == {25 - 3 - 5}


def test_multi_label_rows_lie_in_one_part_or_in_none(rng):
    label = (rng.random((4_000, 10)) < 0.1).astype(np.uint8)
    drawn = seen_unseen(source_of(label), **SMALL)
    splits = drawn["unseen_in_both"]
    unseen, trained = (classes_of(splits, rows) for rows in (splits.query, splits.train))
    assert not unseen & (trained | classes_of(splits, splits.validation))
    used = np.concatenate([splits.query, splits.database, splits.train, splits.validation])
    assert len(np.unique(used)) == len(used)
    assert label[splits.train].sum(axis=1).max() > 1
    held = classes_of(splits, splits.validation) - trained
    assert (
        not label[used][:, list(held)].any(axis=1)[label[used][:, list(trained)].any(axis=1)].any()
    )


def test_omniglot_asks_by_drawers():
    source = characters({**ALPHABETS, "Latin": 3})
    four = omniglot_seen_unseen(source)

    def drawers(key, name, alphabet):
        rows = getattr(four[key], name)
        of_class = np.array([source.classes[row // 20].startswith(alphabet) for row in rows])
        return sorted({int(row) % 20 + 1 for row in rows[of_class]})

    both = "unseen_in_both"
    for alphabet in ("Early_Aramaic", "Japanese_katakana", "Tagalog"):
        assert drawers(both, "query", alphabet) == [1, 2, 3, 4, 5]
        assert drawers(both, "database", alphabet) == list(range(6, 21))
        assert drawers(both, "train", alphabet) == drawers(both, "validation", alphabet) == []
    for alphabet in ("Greek", "Korean", "Latin"):
        assert drawers("seen_in_both", "query", alphabet) == [1, 2]
        assert drawers(both, "database", alphabet) == [3, 4, 5]
        assert drawers(both, "validation_database", alphabet) == [6, 7]
    assert drawers(both, "validation", "Latin") == [8, 9]
    assert drawers(both, "train", "Latin") == list(range(10, 21))
    assert drawers(both, "validation", "Korean") == list(range(8, 21))
    assert drawers(both, "train", "Korean") == []
    assert four[both].name == "omniglot_unseen_in_both"
    assert len(final(four[both]).train) == 7 * 15


DIGESTS = {
    "cifar10_seen_in_seen": "6fdc4d2888b0c9fa",
    "cifar10_unseen_in_unseen": "231880e44f928ca0",
    "cifar10_unseen_in_both": "71a1dbb9a430f9df",
    "cifar10_seen_in_both": "ac7f2286b9255259",
    "fashion_mnist_seen_in_seen": "a87d82d9ff70333e",
    "fashion_mnist_unseen_in_unseen": "5e269b94558f1958",
    "fashion_mnist_unseen_in_both": "9ff1afe874ec75cd",
    "fashion_mnist_seen_in_both": "262613e270b31b9c",
    "omniglot_seen_in_seen": "8f45f065b766c253",
    "omniglot_unseen_in_unseen": "d837cd28d86e7c59",
    "omniglot_unseen_in_both": "88367f8b74e38152",
    "omniglot_seen_in_both": "48300c68334baa9d",
}


def test_cifar10_takes_its_numbers():
    four = cifar10_seen_unseen(single_label(10, 6_000))
    splits = four["seen_in_both"]
    assert splits.name == "cifar10_seen_in_both"
    sizes = [len(rows) for rows in splits[1:5]]
    assert sizes == [2_500, 1_700, 700, 5_000]
    assert len(splits.validation_database) == 700
    assert len(final(splits).train) == 4_900


@pytest.mark.data
@pytest.mark.parametrize(
    ("read", "protocol"),
    [
        (cifar10, cifar10_seen_unseen),
        (fashion_mnist, fashion_mnist_seen_unseen),
        (omniglot, omniglot_seen_unseen),
    ],
)
@pytest.mark.by_default("fashion_mnist-*")
def test_real_lists_are_pinned(data_dir, read, protocol):
    four = protocol(read(data_dir))
    for splits in four.values():
        assert splits.digest[:16] == DIGESTS[splits.name]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"unseen": 1}, "got 7 train, 2 validation, 1 unseen of 10 classes; change unseen or"),
        ({"unseen": ["4"]}, "train and the unseen part must have 2 classes or more each, and "),
        ({"unseen": -2}, "got 8 train, 2 validation, 0 unseen of 10 classes"),
        ({"unseen": 7}, "got 1 train, 2 validation, 7 unseen of 10 classes"),
        ({"validation": 0}, "got 7 train, 0 validation, 3 unseen of 10 classes"),
        ({"unseen": ["cat"]}, "unseen names cat, which is no class or taken already; classes are "),
        ({"unseen": ["1", "2"], "validation": ["1"]}, "validation names 1, which is no class or"),
        ({"query_per_class": 4}, "class . must have 18 images or more to draw from, got 17; ask"),
        ({"query_per_class": 0}, "must be 1 or more, .*, got 0 to ask, 5 to search, 9 to train"),
        ({"train_per_class": 4}, "train_per_class above twice validation_per_class, got 3 to ask"),
    ],
)
def test_what_cannot_be_drawn_is_refused(keywords, message):
    with pytest.raises(InputError, match=message) as caught:
        seen_unseen(single_label(10, 17), **{**SMALL, **keywords})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (single_label(10, 1), "class . must have 8 images or more to draw from, got 1; ask for"),
        (single_label(2, 40), "got 0 train, 0 validation, 2 unseen of 2 classes"),
        (from_arrays(np.zeros((9, 4, 4), np.uint8)), "but the source has no labels"),
    ],
)
def test_a_source_that_has_too_little_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        seen_unseen(source, **SMALL)
    with pytest.raises(InputError, match="this protocol is of the 6000 images of each of 10 clas"):
        cifar10_seen_unseen(source)


@pytest.mark.parametrize(
    ("alphabets", "keywords", "message"),
    [
        (ALPHABETS, {"unseen": ["Klingon"]}, "no alphabet Klingon, the source has Early_Aramaic, "),
        (ALPHABETS, {"validation": ["Tagalog"]}, "validation names Tagalog-character01, which is "),
        ({"Greek": 3, "Latin": 4}, {}, "no alphabet Early_Aramaic, the source has Greek, Latin"),
        (ALPHABETS, {"unseen": ["Tagalog"]}, "got 5 train, 2 validation, 1 unseen of 8 classes"),
    ],
)
def test_alphabets_that_cannot_be_drawn_are_refused(alphabets, keywords, message):
    with pytest.raises(InputError, match=message) as caught:
        omniglot_seen_unseen(characters(alphabets), **keywords)
    assert "\n" not in str(caught.value)


def test_another_source_than_omniglot_is_refused():
    with pytest.raises(InputError, match="reads, got 190 images of 10 classes"):
        omniglot_seen_unseen(single_label(10, 19))
