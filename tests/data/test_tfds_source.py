import json
import shlex
import sys

import numpy as np
import pytest

from quantjax import data
from quantjax.data import tfds_source
from quantjax.data.tfds_source import from_tfds

NAME = "tiny_things"
FIRST = np.arange(4)


@pytest.fixture(scope="module")
def sets():
    """The small sets, or a skip that says what they need."""
    pytest.importorskip("tensorflow_datasets", reason='needs pip install "quantjax[tfds]"')
    pytest.importorskip("PIL")
    from tests.data import tfds_sets

    return tfds_sets


@pytest.fixture(scope="module")
def folder(sets, tmp_path_factory):
    """A folder in which the set is prepared; tests do not write to it."""
    folder = tmp_path_factory.mktemp("tfds")
    sets.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return from_tfds(NAME, split=["train", "test"], data_dir=folder)


def numbers_of(source):
    """Returns the number that each row was made of; TFDS shuffles when it prepares."""
    return source[np.arange(len(source))]["image"][:, 1, 1, 0].astype(int)


def test_splits_follow_each_other(source, sets):
    numbers = numbers_of(source)
    num_train = sets.NUM_ROWS["train"]
    assert sorted(numbers[:num_train]) == list(range(num_train))
    assert sorted(numbers[num_train:]) == list(range(num_train, 33))
    assert len(source) == 33
    assert source.classes == sets.CLASSES


def test_rows_are_read_in_any_order_and_shape(source, sets):
    numbers = numbers_of(source)
    rows = np.array([[30, 2, 30], [0, 25, 23]])
    batch = source[rows]
    due = [[sets.picture(numbers[row]) for row in line] for line in rows]
    np.testing.assert_array_equal(batch["image"], due)
    np.testing.assert_array_equal(batch["label"].argmax(axis=-1), numbers[rows] % 3)
    assert batch["label"].shape == (2, 3, 3)
    assert batch["image"].dtype == batch["label"].dtype == source.labels.dtype == np.uint8


def test_a_row_that_is_not_there_is_refused(source):
    with pytest.raises(IndexError, match="rows must lie in 0 to 32, got 3 to 33"):
        source[np.array([3, 33])]


def test_protocol_and_audit_equal_those_of_arrays(source, sets):
    numbers = numbers_of(source)
    images = np.stack([sets.picture(number) for number in numbers])
    arrays = data.from_arrays(images, numbers % 3, classes=sets.CLASSES)
    sizes = {"query_per_class": 2, "train_per_class": 4, "validation_per_class": 1}
    splits, due = (data.protocol_i(each, **sizes) for each in (source, arrays))
    assert splits.digest == due.digest
    assert data.audit(splits) == data.audit(due)
    for column in ("image", "label"):
        came = splits.source[splits.database][column]
        np.testing.assert_array_equal(came, due.source[due.database][column])


@pytest.mark.parametrize("label", ["tags", "objects/label"])
def test_a_sequence_of_labels_is_multi_hot(folder, source, sets, label):
    several = from_tfds(NAME, split=["train", "test"], data_dir=folder, label=label)
    due = np.zeros((33, 4), np.uint8)
    for row, number in enumerate(numbers_of(source)):
        due[row, sets.tags(number)] = 1
    np.testing.assert_array_equal(several.labels, due)
    assert due.sum(axis=1).min() == 0
    assert several.classes == sets.TAGS
    np.testing.assert_array_equal(several[FIRST]["label"], due[FIRST])


def test_a_table_that_would_be_too_large_stays_class_ids(folder, source, monkeypatch):
    monkeypatch.setattr(tfds_source, "_TABLE", 33 * 3 - 1)
    ids = from_tfds(NAME, split=["train", "test"], data_dir=folder)
    np.testing.assert_array_equal(ids.labels, source.labels.argmax(axis=1))
    assert ids.labels.dtype == np.int64
    np.testing.assert_array_equal(ids[FIRST]["label"], source[FIRST]["label"])
    assert from_tfds(NAME, split="train", data_dir=folder).labels.shape == (24, 3)


@pytest.mark.parametrize(
    ("image", "shape"),
    [("grey", (6, 6, 1)), ("wide", (6, 9, 3)), ("pair/left", (6, 6, 3)), ("tensor", (6, 8, 3))],
)
def test_an_image_is_found_under_its_key(folder, source, sets, image, shape):
    batch = from_tfds(NAME, split="train", data_dir=folder, image=image)[FIRST]["image"]
    for came, number in zip(batch, numbers_of(source), strict=False):
        np.testing.assert_array_equal(came, sets.picture(number, *shape[:2])[..., : shape[2]])


@pytest.mark.parametrize("image", ["wide", "tensor", "grey"])
def test_size_gives_what_an_image_folder_gives(folder, source, sets, tmp_path, image):
    came = from_tfds(NAME, split="train", data_dir=folder, image=image, size=4)[FIRST]["image"]
    (tmp_path / "a").mkdir()
    width = {"wide": 9, "tensor": 8, "grey": 6}[image]
    for row, number in enumerate(numbers_of(source)[FIRST]):
        picture = sets.picture(number, 6, width)
        picture = picture[..., 0] if image == "grey" else picture
        (tmp_path / "a" / f"{row}.png").write_bytes(sets.png(picture).getvalue())
    due = data.image_folder(tmp_path, size=4)[FIRST]["image"]
    np.testing.assert_array_equal(came, due[..., : came.shape[-1]])
    assert came.shape == (4, 4, 4, 1 if image == "grey" else 3)


def test_mixed_sizes_are_taken_with_a_size_and_refused_without(folder):
    options = {"split": "train", "data_dir": folder, "image": "either"}
    assert from_tfds(NAME, size=5, **options)[np.arange(24)]["image"].shape == (24, 5, 5, 3)
    with pytest.raises(
        ValueError,
        match=r"one size, got tiny_things/1\.0\.0 train\[0\] of 6 x 6 and tiny_things/1\.0\.0 "
        r"train\[\d+\] of 6 x 9 \(height x width\); resize and crop by --size=PX",
    ):
        from_tfds(NAME, **options)


def test_labels_are_read_without_decoding_an_image(folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(tfds_source, "decode", refuse)
    source = from_tfds(NAME, split="train", data_dir=folder)
    with pytest.raises(AssertionError, match="decoded"):
        source[FIRST]


@pytest.mark.parametrize("number", [24, 23, 5])
def test_labels_are_read_by_the_batch(folder, source, monkeypatch, number):
    monkeypatch.setattr(tfds_source, "_BATCH", number)
    again = from_tfds(NAME, split=["train", "test"], data_dir=folder)
    np.testing.assert_array_equal(again.labels, source.labels)


def test_a_part_of_a_split(folder, source):
    half = from_tfds(NAME, split="train[12:]", data_dir=folder)
    np.testing.assert_array_equal(half.labels, source.labels[12:24])
    np.testing.assert_array_equal(numbers_of(half), numbers_of(source)[12:24])


def test_parquet_is_read_too(sets, source, tmp_path):
    sets.prepare(tmp_path, "parquet")
    again = from_tfds(NAME, split="test", data_dir=tmp_path)
    np.testing.assert_array_equal(again[FIRST]["image"], source[24 + FIRST]["image"])


def test_the_environment_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert len(from_tfds(NAME, split="train")) == 24


def without_code(folder, where):
    """Copies the set under a name of which there is no code; returns the copy."""
    copy = where / "other_things" / "1.0.0"
    copy.mkdir(parents=True)
    for file in (folder / NAME / "1.0.0").iterdir():  # names of files hold that of the set
        content = file.read_bytes().replace(NAME.encode(), b"other_things")
        (copy / file.name.replace(NAME, "other_things")).write_bytes(content)
    return copy


def test_a_set_is_read_without_its_code(folder, source, tmp_path):
    without_code(folder, tmp_path)
    other = from_tfds("other_things", split=["train", "test"], data_dir=tmp_path)
    np.testing.assert_array_equal(other[FIRST]["image"], source[FIRST]["image"])


def run_command(message):
    """Runs what comes after `python -c` in an error, in this process."""
    _, option, program = shlex.split(message[message.index("python -c ") :])
    assert option == "-c"
    exec(program, {})


@pytest.mark.parametrize("version", ["", ":1.0.0"])
def test_an_unprepared_set_shows_a_command_that_prepares_it(sets, tmp_path, version):
    place = tmp_path / "it's here"
    with pytest.raises(
        FileNotFoundError,
        match=r"^tiny_things/1\.0\.0 is not prepared in .*it's here, which holds no prepared set; "
        "prepare it, for which many sets need TensorFlow: python -c .*$",
    ) as caught:
        from_tfds(NAME + version, split="train", data_dir=place)
    assert not place.exists()
    run_command(str(caught.value))
    assert len(from_tfds(NAME + version, split="train", data_dir=place)) == 24


def test_a_set_without_random_access_shows_a_command(sets, tmp_path):
    sets.prepare(tmp_path)
    info = tmp_path / NAME / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    with pytest.raises(
        FileNotFoundError, match=r"is prepared in .* as tfrecord, which has no random access; "
    ) as caught:
        from_tfds(NAME, split="train", data_dir=tmp_path)
    run_command(str(caught.value))
    assert len(from_tfds(NAME, split="train", data_dir=tmp_path / "array_record")) == 24


@pytest.mark.parametrize("keep", [None, 0, 100, 65_536])
def test_a_damaged_file_is_named_with_its_split(sets, tmp_path, keep):
    sets.prepare(tmp_path)
    (path,) = (tmp_path / NAME / "1.0.0").glob("*train.array_record*")
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    assert len(from_tfds(NAME, split="test", data_dir=tmp_path)) == 9
    with pytest.raises(ValueError, match=r"^cannot read train of tiny_things/1\.0\.0: .* anew$"):
        from_tfds(NAME, split=["test", "train"], data_dir=tmp_path)


def test_a_file_that_is_damaged_later_is_named(sets, tmp_path):
    sets.prepare(tmp_path)
    source = from_tfds(NAME, split="train", data_dir=tmp_path)
    (path,) = (tmp_path / NAME / "1.0.0").glob("*train.array_record*")
    with path.open("r+b") as file:
        file.seek(300)
        file.write(b"x" * 50)
    with pytest.raises(ValueError, match=r"cannot read train of tiny_things/1\.0\.0: .*; delete"):
        source[np.arange(24)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_thingz", r", which holds tiny_things:1\.0\.0; did you mean tiny_things\?$"),
        ("qqqqq", r"no set qqqqq in TFDS or in .*, which holds tiny_things:1\.0\.0$"),
        ("tiny_things:2.0.0", r"no set tiny_things:2\.0\.0 in TFDS: .*only: 1\.0\.0\.$"),
        ("tiny_things/a", r"no set tiny_things/a in TFDS: "),
        ("huggingface:mnist", "a namespace, whose sets are downloaded$"),
        ("no name!", "no set no name! in TFDS: "),
    ],
)
def test_an_unknown_set_names_what_is_there(folder, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_tfds(name, split="train", data_dir=folder)
    assert "\n" not in str(caught.value)


def change(value, key, new):
    """Changes what stands under a key, wherever it does."""
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            change(each, key, new)
    if isinstance(value, dict) and key in value:
        value[key] = new


@pytest.mark.parametrize(
    ("name", "legacy"),
    [("hostile_module.X", False), ("hostile_module.X", True), ("unittest.__main__.X", False)],
)
def test_no_file_has_a_module_imported(folder, tmp_path, monkeypatch, name, legacy):
    path = without_code(folder, tmp_path / "sets") / "features.json"
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = json.loads(path.read_text())
    if legacy:
        content = {"type": name, "content": {}}
    else:
        change(content, "pythonClassName", name)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"'{name}' is no feature of TFDS; import its module"):
        from_tfds("other_things", split="train", data_dir=tmp_path / "sets")
    assert name.rpartition(".")[0] not in sys.modules


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: content[: len(content) // 2],
        lambda content: json.dumps({**json.loads(content), "unknown": 1}),
        lambda content: "[" * 5000,
        lambda content: "null",
        lambda content: content.replace(":", ": [", 1),
    ],
    ids=["empty", "cut", "unknown field", "deep", "null", "no JSON"],
)
def test_damaged_descriptions_are_refused(folder, tmp_path, name, damage):
    path = without_code(folder, tmp_path) / name
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"cannot read|no set") as caught:
        from_tfds("other_things", split="train", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["tset", "train[:0]", "train[", []])
def test_an_unknown_split_names_the_others(folder, split):
    message = (
        r"split must name rows of tiny_things/1\.0\.0, which has train \(24\), test \(9\), got"
    )
    with pytest.raises(ValueError, match=message):
        from_tfds(NAME, split=split, data_dir=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "photo"}, "image must be a key of tiny_things/1.0.0, which has image, .* photo"),
        ({"label": "objects/x"}, "label must be a key of .*, which has .*, objects, .*objects/x"),
        ({"image": "frames"}, "1 or 3 channels, .* has a sequence of Image.* under frames"),
        ({"image": "real"}, "8 bits and .* has Tensor.*float32.* under real"),
        ({"image": "label"}, "key of an image .* has ClassLabel.* under label"),
        ({"image": "pair"}, "has FeaturesDict.* under pair"),
        ({"label": "text"}, "label must be the key of a ClassLabel, .* has Text.* under text"),
        ({"label": "objects"}, "has a sequence of FeaturesDict.* under objects"),
        ({"size": 0}, "size must be 1 pixel or more, got 0"),
    ],
)
def test_a_wrong_key_says_what_is_there(folder, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_tfds(NAME, split="train", data_dir=folder, **options)
    assert "\n" not in str(caught.value)


def test_an_image_without_a_label_is_a_row_without_one(folder):
    source = from_tfds(NAME, split="train", data_dir=folder, label="missing")
    empty = np.flatnonzero(source.labels.sum(axis=1) == 0)
    assert numbers_of(source)[empty].tolist() == [5]
    assert source.name_of(int(empty[0])) == f"tiny_things/1.0.0 train[{empty[0]}]"
    np.testing.assert_array_equal(np.delete(source.labels, empty, axis=0), [[1, 0, 0]] * 23)


def test_a_set_too_large_for_a_table_must_have_labels(folder, monkeypatch):
    monkeypatch.setattr("quantjax.data.tfds_source._TABLE", 1)
    with pytest.raises(ValueError, match=r"label -1 of .* train\[\d+\] is none of"):
        from_tfds(NAME, split="train", data_dir=folder, label="missing")


@pytest.mark.parametrize("image", ["image", "wide"])
def test_labels_need_not_be_read(folder, image):
    source = from_tfds(NAME, split="train", data_dir=folder, label=None, image=image)
    assert (source.classes, source.labels.shape) == ((), (24, 0))
    assert source[np.array([1, 0])]["label"].shape == (2, 0)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'quantjax\[tfds\]'"):
        from_tfds("mnist", split="train")


def test_tensorflow_is_not_imported(folder, monkeypatch):
    asked = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    source = from_tfds(NAME, split="train", data_dir=folder)
    assert source[FIRST]["image"].shape == (4, 6, 6, 3)
    assert not [name for name in asked if name.split(".")[0] == "tensorflow"]
    assert "tensorflow" not in sys.modules


class Digits(list):
    """Records of MNIST as TFDS gives them, encoded."""

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def test_mocked_mnist_of_given_records(sets):
    import tensorflow_datasets as tfds

    images = [np.full((28, 28), 3 * digit, np.uint8) for digit in range(5)]
    records = Digits({"image": sets.png(x).getvalue(), "label": i} for i, x in enumerate(images))
    with tfds.testing.mock_data(as_data_source_fn=lambda self, split, **_: records):
        source = from_tfds("mnist", split="train")
        batch = source[np.array([4, 1])]
    np.testing.assert_array_equal(batch["image"][:, 5, 5, 0], [12, 3])
    assert batch["image"].shape == (2, 28, 28, 1)
    assert source.classes == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, np.eye(10, dtype=np.uint8)[:5])
