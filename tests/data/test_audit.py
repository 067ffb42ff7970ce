import json

import numpy as np
import pytest

from quantjax.data import (
    audit,
    check_training_labels,
    cifar10,
    fashion_mnist,
    file_lists,
    from_arrays,
    from_features,
    label_notes,
    make_splits,
    protocols,
)
from quantjax.data.audit import image_hashes
from tests.data.photo_files import write_list, write_photo

PAIRS = (
    "query in train",
    "query in validation",
    "query in database",
    "validation in train",
    "validation in validation_database",
)
TOGETHER = ("train in database", "validation in database")
LISTS = ("train", "validation", "query", "database")
ROWS = {
    "train": np.arange(0, 10),
    "validation": np.arange(10, 14),
    "query": np.arange(14, 20),
    "database": np.arange(20, 40),
}
CLASSES = ("ant", "bee", "cat")


def pixels(num_rows=40):
    """Images [N, 2, 3, 1], every one another."""
    image = np.zeros((num_rows, 2, 3, 1), np.uint8)
    image[:, 1, 2, 0] = np.arange(num_rows)
    return image


def splits_of(*, equal=(), label=None, rows=ROWS, **keywords):
    """A split whose images are all different, but for pairs of rows (copy, original)."""
    image = pixels()
    for copy, original in equal:
        image[copy] = image[original]
    label = np.arange(40) % 3 if label is None else label
    return make_splits(from_arrays(image, label, classes=CLASSES), **rows, **keywords)


def zeros(names):
    return dict.fromkeys(names, 0)


def test_a_clean_split_yields_zeros():
    splits = splits_of(name="toy")
    found = audit(splits)
    assert (found.name, found.digest) == ("toy", splits.digest)
    assert found.label_shape == [40, 3]
    assert found.rows == {"train": 10, "validation": 4, "query": 6, "database": 20}
    assert found.shared_images == zeros(PAIRS)
    assert found.shared_rows == zeros(PAIRS + TOGETHER)
    assert found.repeated_images == found.unlabelled == zeros(LISTS)
    assert found.labels_per_row == {name: {"min": 1, "mean": 1.0, "max": 1} for name in LISTS}
    assert found.absent_classes == {"train": [], "query": [], "database": []}
    assert found.zero_queries == {"query": 0, "validation": 0}


def test_queries_that_validation_searches_are_found():
    rows = ROWS | {"database": np.arange(20, 36)}
    splits = splits_of(rows=rows)._replace(validation_searches=np.array([14, 36, 37]))
    with pytest.raises(ValueError, match="1 of 6 query rows are in validation_database too"):
        audit(splits)
    found = audit(splits, allow_query_overlap=True)
    assert found.shared_rows["query in validation_database"] == 1


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_equal_images_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="max_equal_images must be a share from 0 to 1"):
        audit(splits_of(), max_equal_images=share)


def test_the_outcome_is_json():
    found = audit(splits_of(equal=[(14, 0), (22, 21)]), max_equal_images=1)
    assert json.loads(json.dumps(found._asdict())) == found._asdict()


@pytest.mark.parametrize(
    ("first", "second", "pair"),
    [
        ("query", "train", "query in train"),
        ("query", "validation", "query in validation"),
        ("query", "database", "query in database"),
        ("validation", "train", "validation in train"),
        ("validation", "database", "validation in validation_database"),
    ],
)
def test_planted_equal_images_of_two_lists_are_counted(first, second, pair):
    # Two rows of the first list look like rows of the second, one of them like two.
    a, b = ROWS[first], ROWS[second]
    splits = splits_of(equal=[(a[1], b[2]), (b[3], b[2]), (a[2], b[0])])
    found = audit(splits, max_equal_images=1)
    assert found.shared_images == zeros(PAIRS) | {pair: 2}
    assert found.shared_rows == zeros(PAIRS + TOGETHER)
    assert found.repeated_images == zeros(LISTS) | {second: 1}


@pytest.mark.parametrize("name", LISTS)
def test_planted_duplicates_inside_a_list_are_counted(name):
    first, second, _, fourth = ROWS[name][:4]
    splits = splits_of(equal=[(second, first), (fourth, first)])
    found = audit(splits)
    assert found.repeated_images == zeros(LISTS) | {name: 2}
    assert found.shared_images == zeros(PAIRS)


def test_planted_shared_rows_are_counted_and_are_no_duplicates():
    rows = ROWS | {"query": np.array([0, 1, 10, 20, 21, 22, 19])}
    splits = splits_of(rows=rows, allow_query_overlap=True)
    found = audit(splits, allow_query_overlap=True)
    assert found.shared_rows == zeros(PAIRS + TOGETHER) | {
        "query in train": 2,
        "query in validation": 1,
        "query in database": 3,
    }
    assert found.shared_images == zeros(PAIRS)


def test_a_shared_row_with_a_duplicate_beside_it_counts_as_both():
    rows = ROWS | {"query": np.array([20, 14])}
    splits = splits_of(rows=rows, equal=[(30, 20)], allow_query_overlap=True)
    found = audit(splits, allow_query_overlap=True, max_equal_images=1)
    assert found.shared_rows["query in database"] == 1
    assert found.shared_images["query in database"] == 1
    with pytest.raises(ValueError, match=r"1 of 2 queries .*, such as 20 = 30; "):
        audit(splits, allow_query_overlap=True)


def test_training_rows_in_the_database_are_read_once_and_counted():
    asked = []

    class Counting:
        source = splits_of().source
        labels, classes = source.labels, source.classes

        def __len__(self):
            return 40

        def __getitem__(self, rows):
            asked.extend(rows.tolist())
            return self.source[rows]

    rows = ROWS | {"database": np.concatenate([np.arange(14), np.arange(20, 35)])}
    found = audit(make_splits(Counting(), **rows), batch_size=7)
    assert found.shared_images == zeros(PAIRS)
    together = {"train in database": 10, "validation in database": 4}
    assert found.shared_rows == zeros(PAIRS) | together
    assert asked == list(range(35))


@pytest.mark.parametrize("batch_size", [1, 16, 17, 40, 1_000])
def test_counts_do_not_depend_on_the_batch(batch_size):
    splits = splits_of(equal=[(14, 39), (5, 0)])
    kept = audit(splits, max_equal_images=1)
    assert audit(splits, max_equal_images=1, batch_size=batch_size) == kept


def test_progress_is_told():
    told = []
    audit(splits_of(), batch_size=16, progress=lambda done, due: told.append((done, due)))
    assert told == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.parametrize("second", ["train", "validation", "database"])
def test_query_rows_in_another_list_are_refused(second):
    there = ROWS[second][[3, 1]]
    rows = ROWS | {"query": np.concatenate([there, ROWS["query"]])}
    splits = splits_of(rows=rows, allow_query_overlap=True)
    message = (
        rf"2 of 8 query rows are in {second} too, such as {there[1]}, {there[0]}; .*overlap=True"
    )
    with pytest.raises(ValueError, match=message):
        audit(splits)


def test_validation_rows_in_train_are_refused_whatever_is_allowed():
    splits = splits_of()._replace(validation=np.array([3, 10]))
    message = r"1 of 2 validation rows are in train too, such as 3; draw the lists anew$"
    with pytest.raises(ValueError, match=message):
        audit(splits, allow_query_overlap=True, max_equal_images=1)


def test_an_overlap_of_rows_is_refused_before_an_image_is_read():
    splits = splits_of()._replace(query=np.array([20]))

    def never(done, due):
        raise AssertionError

    with pytest.raises(ValueError, match="1 of 1 query rows are in database too, such as 20"):
        audit(splits, progress=never)


@pytest.mark.parametrize("second", ["train", "validation", "database"])
def test_equal_images_under_other_rows_are_refused(second):
    a, b = ROWS["query"], ROWS[second]
    splits = splits_of(equal=[(a[4], b[1]), (a[0], b[2])])
    message = (
        rf"2 of 6 queries have an equal image of another row number in {second}, "
        rf"such as {a[0]} = {b[2]}, {a[4]} = {b[1]}; that is more than 0.01 of them: .*max_equal"
    )
    with pytest.raises(ValueError, match=message):
        audit(splits)
    with pytest.raises(ValueError, match=r"more than 0\.33 of them"):
        audit(splits, allow_query_overlap=True, max_equal_images=0.33)
    assert audit(splits, max_equal_images=0.34).shared_images[f"query in {second}"] == 2


def test_one_query_of_a_hundred_is_recorded_and_two_are_refused():
    image = np.arange(300, dtype="<u2").view(np.uint8).reshape(300, 1, 2, 1).copy()
    rows = {"train": np.arange(50), "validation": np.arange(50, 60)}
    rows |= {"query": np.arange(60, 160), "database": np.arange(160, 300)}
    image[60] = image[200]
    splits = make_splits(from_arrays(image, np.zeros(300, int)), **rows)
    assert audit(splits).shared_images["query in database"] == 1
    image[159] = image[299]
    with pytest.raises(ValueError, match="2 of 100 queries have an equal image"):
        audit(splits)


def test_thulab_lists_are_refused_also_when_row_numbers_differ():
    # 888 of 1,000 queries in the database, each under a number of its own: thulab/DeepHash#49.
    image = np.arange(4_000, dtype="<u2").view(np.uint8).reshape(4_000, 1, 2, 1).copy()
    image[2_500:3_388] = image[:888]
    splits = make_splits(
        from_arrays(image, np.zeros(4_000, int)),
        train=np.arange(1_000, 1_500),
        validation=np.arange(1_500, 1_600),
        query=np.arange(1_000),
        database=np.arange(2_000, 4_000),
    )
    with pytest.raises(ValueError, match=r"888 of 1000 queries .*, such as 0 = 2500, 1 = 2501"):
        audit(splits)
    assert audit(splits, max_equal_images=1).shared_images["query in database"] == 888


def listed_photos(folder, pixels, labels=None):
    """A split by list files, t0.png, t1.png, ... for train; photos of equal numbers are equal."""
    lists = {}
    for part, values in pixels.items():
        names = [f"{part}{number}.png" for number in range(len(values))]
        for name, value in zip(names, values, strict=True):
            write_photo(folder / name, value)
        rows = [[1, 0]] * len(names) if labels is None else labels[part]
        lists[part] = write_list(folder / f"{part}.txt", names, rows)
    return file_lists(folder, **lists)


PHOTOS = {
    "train": [10, 20],
    "query": [30, 10, 30, 40, 50, 60, 70, 80],
    "database": [30, 40, 50, 60, 70, 80, 90, 90],
}


def test_equal_photos_are_refused_by_name_and_a_file_lists_all(tmp_path):
    splits = listed_photos(tmp_path, PHOTOS)
    listing = tmp_path / "equal.txt"
    with pytest.raises(ValueError, match=r"7 of 8 queries .* in database, such") as no:
        audit(splits._replace(train=splits.train[1:]), listing=listing)
    message = str(no.value)
    assert f"such as {tmp_path}/query0.png = {tmp_path}/database0.png, " in message
    assert f"{tmp_path}/query5.png = {tmp_path}/database3.png, and 2 more; that is" in message
    assert "query6" not in message
    assert f"all are listed in {listing}; take" in message
    assert "--max_equal_images=1 allows any number" in message
    groups = listing.read_text().split("\n\n")[1:]
    found = {
        frozenset(line.replace(f"{tmp_path}/", "") for line in group.splitlines())
        for group in groups
    }
    pairs = {(3, 1), (4, 2), (5, 3), (6, 4), (7, 5)}
    due = {frozenset({f"query\tquery{q}.png", f"database\tdatabase{d}.png"}) for q, d in pairs}
    due |= {
        frozenset({"query\tquery0.png", "query\tquery2.png", "database\tdatabase0.png"}),
        frozenset({"database\tdatabase6.png", "database\tdatabase7.png"}),
    }
    assert found == due
    assert len(groups) == len(due)


def test_allowed_equal_images_are_listed_with_all_their_lists_and_an_old_list_goes(tmp_path):
    listing = tmp_path / "equal.txt"
    rows = ROWS | {"database": np.append(ROWS["train"], np.arange(20, 40))}
    audit(splits_of(rows=rows, equal=[(14, 3)]), max_equal_images=1, listing=listing)
    assert listing.read_text().splitlines()[1:] == ["", "train,database\t3", "query\t14"]
    audit(splits_of(rows=rows), listing=listing)
    assert not listing.exists()


def test_names_that_would_break_a_line_are_escaped(tmp_path):
    image = np.zeros((6, 1, 1, 1), np.uint8)
    image[:4, 0, 0, 0] = [1, 2, 3, 4]
    names = ["a", "b", "c", "d", "two\nlines", "f"]
    splits = make_splits(
        from_arrays(image, np.zeros(6, int), names=names),
        train=[0], validation=[], query=[1], database=[2, 3, 4, 5],
    )  # fmt: skip
    audit(splits, listing=tmp_path / "equal.txt")
    lines = (tmp_path / "equal.txt").read_text().splitlines()
    assert lines[2:] == ["database\t'two\\nlines'", "database\tf"]


def test_without_a_file_the_refusal_says_how_to_get_one():
    with pytest.raises(ValueError, match="all are listed where listing=FILE is passed; take"):
        audit(splits_of(equal=[(14, 39)]))


def test_features_are_compared_byte_for_byte():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[[14, 25]] = x[[0, 24]]
    x[16] = x[20] + np.float32(1e-6)
    splits = make_splits(from_features(x, np.arange(40) % 3), **ROWS)
    found = audit(splits, max_equal_images=1)
    assert found.shared_images == zeros(PAIRS) | {"query in train": 1}
    assert found.repeated_images == zeros(LISTS) | {"database": 1}
    with pytest.raises(ValueError, match=r"1 of 6 queries .* in train, such as 14 = 0; "):
        audit(splits)


def test_a_source_of_neither_images_nor_features_is_refused():
    class Sounds:
        labels, classes = np.ones((40, 1), np.uint8), ("a",)

        def __len__(self):
            return 40

        def __getitem__(self, rows):
            return {"sound": np.zeros((len(rows), 9)), "label": self.labels[rows]}

    with pytest.raises(ValueError, match="must give image or feature, got sound, label"):
        audit(make_splits(Sounds(), **ROWS))


def test_an_overlap_is_refused_by_name_and_flag(tmp_path):
    splits = listed_photos(tmp_path, {"train": [1], "query": [2], "database": [3]})
    with pytest.raises(
        ValueError, match=r"query rows are in train too, such as .*train0\.png; "
    ) as no:
        audit(splits._replace(query=splits.train))
    assert "(--allow_query_overlap)" in str(no.value)


def test_training_photos_without_a_label_are_named_by_their_files(tmp_path):
    labels = {
        "train": [[1, 0], [0, 0], [0, 1], [0, 0]],
        "query": [[0, 0]],
        "database": [[1, 1]],
    }
    pixels = {"train": [1, 2, 3, 4], "query": [5], "database": [6]}
    splits = listed_photos(tmp_path, pixels, labels)
    names = f"{tmp_path}/train1.png, {tmp_path}/train3.png"
    with pytest.raises(ValueError, match=f"2 of 4 training rows have no class: {names}; give"):
        check_training_labels(splits)
    assert label_notes(splits) == [
        f"2 of 4 train rows have no label: {names}",
        f"1 of 1 query rows have no label: {tmp_path}/query0.png",
    ]


def test_training_rows_must_share_classes():
    label = np.arange(40) % 3
    check_training_labels(splits_of(label=label))
    label = np.repeat(np.eye(3, dtype=np.uint8), [10, 15, 15], axis=0)
    with pytest.raises(ValueError, match="all 10 training rows share a class"):
        check_training_labels(splits_of(label=label))
    rows = ROWS | {"train": np.array([0, 10, 25]), "validation": [1]}
    with pytest.raises(ValueError, match="no two of the 3 training rows share a class"):
        check_training_labels(splits_of(label=label, rows=rows))


def test_a_source_without_labels_is_audited():
    splits = make_splits(from_arrays(pixels()), **ROWS)
    found = audit(splits)
    assert found.label_shape == [40, 0]
    assert found.unlabelled == found.rows
    assert found.absent_classes == {"train": [], "query": [], "database": []}
    assert found.zero_queries == {"query": 6, "validation": 4}


def test_absent_classes_are_cut_to_twenty_names():
    classes = [f"c{number}" for number in range(100)]
    source = from_arrays(pixels(), np.arange(40), classes=classes)
    found = audit(make_splits(source, **ROWS)).absent_classes
    assert found["train"] == [*classes[10:30], "and 70 more"]
    assert found["database"] == [*classes[:20], "and 60 more"]


def test_labels_are_counted_by_list():
    label = np.zeros((40, 3), np.uint8)
    label[:10, 0] = 1  # train: ant, one of them bee too
    label[3, 1] = 1
    label[10:13, 1] = 1  # validation: three bees, one row without label
    label[14:20, [[1], [2]]] = 1  # query: bee and cat
    label[15] = [0, 0, 1]
    label[16] = 0
    label[20:38, 0] = 1  # database: ant, two bees of them, two rows without label
    label[20:22, 1] = 1
    found = audit(splits_of(label=label))
    assert found.unlabelled == {"train": 0, "validation": 1, "query": 1, "database": 2}
    assert found.labels_per_row == {
        "train": {"min": 1, "mean": 1.1, "max": 2},
        "validation": {"min": 0, "mean": 0.75, "max": 1},
        "query": {"min": 0, "mean": 1.5, "max": 2},
        "database": {"min": 0, "mean": 1.0, "max": 2},
    }
    assert found.absent_classes == {"train": ["cat"], "query": ["ant"], "database": ["cat"]}
    # The query of cat alone and the one without label; of validation the one without.
    assert found.zero_queries == {"query": 2, "validation": 1}


def test_queries_without_a_relevant_item_equal_a_loop(rng):
    label = (rng.random((40, 3)) < 0.2).astype(np.uint8)
    label[20:, 2] = 0
    splits = splits_of(label=label)
    due = {}
    for name, database in (("query", splits.database), ("validation", splits.validation_database)):
        rows = getattr(splits, name)
        due[name] = sum(
            not any((label[row] & label[item]).any() for item in database) for row in rows
        )
    assert due["query"] > 0
    assert audit(splits).zero_queries == due


def test_a_split_without_validation_has_zeros_there():
    found = audit(splits_of(rows=ROWS | {"validation": []}))
    assert found.rows["validation"] == 0
    assert found.labels_per_row["validation"] == {"min": 0, "mean": 0.0, "max": 0}
    assert found.zero_queries == {"query": 0, "validation": 0}


def test_validation_is_held_against_what_it_searches():
    label = np.repeat([0, 1, 2], [20, 15, 5])
    rows = ROWS | {"validation": np.arange(10, 12), "query": np.arange(36, 40)}
    searched = np.array([12, 13, 14])
    splits = splits_of(rows=rows | {"database": np.arange(20, 36)}, label=label)
    assert audit(splits).zero_queries == {"query": 0, "validation": 2}
    splits = splits_of(
        rows=rows | {"database": np.arange(20, 36)},
        label=label,
        equal=[(13, 10)],
        validation_searches=searched,
    )
    found = audit(splits)
    assert found.zero_queries == {"query": 0, "validation": 0}
    assert found.shared_images["validation in validation_database"] == 1


def test_hashes_tell_shapes_and_pixels_apart():
    image = pixels(4)
    image[2] = image[0]
    rows = np.array([3, 2, 0, 1])
    hashes = image_hashes(from_arrays(image, np.zeros(4, int)), rows)
    assert (hashes.shape, hashes.dtype) == ((4, 2), np.uint64)
    assert len(np.unique(hashes, axis=0)) == 3
    np.testing.assert_array_equal(hashes[1], hashes[2])
    turned = image_hashes(from_arrays(image.reshape(4, 3, 2, 1), np.zeros(4, int)), rows)
    assert not np.isin(turned, hashes).any()


def test_a_batch_below_one_image_is_refused():
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        audit(splits_of(), batch_size=0)


# No image of either data set equals another, so that the protocols cannot share any.
REAL = [
    (cifar10, protocols.cifar10_i),
    (cifar10, protocols.cifar10_i_with_train),
    (cifar10, protocols.cifar10_ii),
    (fashion_mnist, protocols.fashion_mnist_i),
    (fashion_mnist, protocols.fashion_mnist_ii),
]


@pytest.fixture(scope="module")
def read_once():
    kept = {}

    def read(reader, folder):
        if reader not in kept:
            kept.clear()
            kept[reader] = reader(folder)
        return kept[reader]

    return read


@pytest.mark.data
@pytest.mark.parametrize(("reader", "protocol"), REAL)
@pytest.mark.by_default("fashion_mnist-fashion_mnist_ii", "cifar10-cifar10_i_with_train")
def test_real_protocols_share_and_repeat_no_image(data_dir, read_once, reader, protocol):
    found = audit(protocol(read_once(reader, data_dir)), max_equal_images=0)
    assert found.shared_images == zeros(PAIRS)
    assert {pair: found.shared_rows[pair] for pair in PAIRS} == zeros(PAIRS)
    assert found.repeated_images == found.unlabelled == zeros(LISTS)
    assert found.absent_classes == {"train": [], "query": [], "database": []}
    assert found.zero_queries == {"query": 0, "validation": 0}
    assert found.label_shape == [{cifar10: 60_000, fashion_mnist: 70_000}[reader], 10]


@pytest.mark.data
@pytest.mark.parametrize("reader", [cifar10, fashion_mnist])
def test_every_real_image_is_another(data_dir, read_once, reader):
    source = read_once(reader, data_dir)
    assert len({image.tobytes() for image in source[np.arange(len(source))]["image"]}) == len(
        source
    )
