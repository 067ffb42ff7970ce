import pickle

import numpy as np
import pytest

from quantjax.data import cifar, cifar10

FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
ROWS = 3


def batch_of(number: int) -> dict:
    rng = np.random.default_rng(number)
    data = rng.integers(256, size=(ROWS, 3072), dtype=np.uint8)
    return {"data": data, "labels": [number, 9, 0], "filenames": ["a", "b", "c"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six small files of `ROWS` images each."""
    monkeypatch.setattr(cifar, "_ROWS_PER_FILE", ROWS)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(FILES):
        (folder / name).write_bytes(pickle.dumps(batch_of(number), 2))
    return folder


def test_images_and_labels_come_in_file_order(folder):
    source = cifar10(folder.parent)
    batch = source[np.arange(len(source))]
    assert batch["image"].shape == (6 * ROWS, 32, 32, 3)
    for number in range(6):
        planes = batch_of(number)["data"].reshape(ROWS, 3, 32, 32)
        images = batch["image"][number * ROWS : (number + 1) * ROWS]
        for channel in range(3):
            np.testing.assert_array_equal(images[..., channel], planes[:, channel])
    np.testing.assert_array_equal(
        batch["label"].argmax(axis=1), np.ravel([[number, 9, 0] for number in range(6)])
    )
    assert source.classes[3] == "cat"


def test_bytes_keys_are_read_too(folder):
    for number, name in enumerate(FILES):
        batch = {key.encode(): value for key, value in batch_of(number).items()}
        (folder / name).write_bytes(pickle.dumps(batch, 4))
    assert len(cifar10(folder)) == 6 * ROWS


def test_the_folder_itself_may_be_named_and_renamed(folder):
    assert len(cifar10(folder)) == 6 * ROWS
    assert len(cifar10(folder.rename(folder.with_name("renamed")))) == 6 * ROWS


def test_missing_files_are_named(folder):
    (folder / "data_batch_2").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(
        FileNotFoundError, match="half there, it lacks data_batch_2, test_batch; unpack the whole"
    ):
        cifar10(folder.parent)


def test_a_truncated_file_is_named(folder):
    path = folder / "data_batch_4"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cannot read .*data_batch_4: .*truncated.*anew"):
        cifar10(folder.parent)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "test_batch must hold a dict, got list"),
        ({"labels": [1, 2, 3]}, r"'data' in .* must be uint8 \(3, 3072\), got NoneType"),
        (batch_of(0) | {"data": np.zeros((2, 3072), np.uint8)}, r"got uint8 \(2, 3072\)"),
        (batch_of(0) | {"data": np.zeros((3, 3072), np.int64)}, r"got int64 \(3, 3072\)"),
        (batch_of(0) | {"labels": [1, 2]}, "'labels' in .* must be a list of 3 class ids, got 2"),
        (batch_of(0) | {"labels": "123"}, "class ids, got str"),
        (batch_of(0) | {"labels": [1, 2, 10]}, "must be whole numbers from 0 to 9"),
        (batch_of(0) | {"labels": [1, 2, 0.5]}, "must be whole numbers from 0 to 9"),
    ],
)
def test_other_content_is_refused(folder, batch, message):
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=message) as caught:
        cifar10(folder.parent)
    assert caught.match("fetch the file anew")


def test_damaged_bytes_raise_nothing_but_value_errors(folder, rng):
    path = folder / "data_batch_1"
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=200):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(content) // 2, 2 * len(content))])
        with pytest.raises(ValueError, match="data_batch_1"):
            cifar10(folder)


@pytest.mark.data
def test_real_cifar10(data_dir):
    source = cifar10(data_dir)
    assert len(source) == 60_000
    for part in (source.labels[:50_000], source.labels[50_000:]):
        np.testing.assert_array_equal(part.sum(axis=0), [len(part) // 10] * 10)
    image = source[np.array([0, 59_999])]["image"]
    assert image.shape == (2, 32, 32, 3)
    # Neighbouring pixels of a photo are alike, which they are not in a wrong layout.
    assert np.abs(np.diff(image.astype(int), axis=2)).mean() < 20
