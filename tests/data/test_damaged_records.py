"""Damaged records, and records that differ from their manifest, raise an error with their name."""

import json
import os

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from quantjax.data import from_records, image_folder, record_manifest, to_records
from tests.data.photo_files import shards, write_random_photo

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")

MANIFEST = record_manifest.NAME


def test_a_missing_folder_and_one_without_records_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder, .*quantjax records"):
        from_records(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"holds no finished records, {MANIFEST} is not"):
        from_records(folder)


def test_a_missing_shard_is_named(records):
    shards(records)[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"photos-00001-of-00003.\w{8}.array_record is missing"
    ):
        from_records(records)


def test_a_cut_shard_is_named(records):
    os.truncate(shards(records)[1], 65536)
    with pytest.raises(
        ValueError, match=r"00001-of-00003.\w{8}.array_record has 65,536 bytes, due 1\d"
    ):
        from_records(records)


def test_a_shard_of_other_content_is_named(records):
    path = shards(records)[2]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(
        ValueError, match=r"cannot read .*00002-of-00003.\w{8}.array_record: "
    ) as caught:
        from_records(records)
    assert "\n" not in str(caught.value)


def test_a_shard_with_another_number_of_records_is_named(folder, records, tmp_path):
    to_records(image_folder(folder), tmp_path / "other", num_shards=11)
    for shard in (0, 1):  # of 3 and of 1 records, in files of the same size
        assert shards(records)[shard].stat().st_size == shards(tmp_path / "other")[0].stat().st_size
    shards(records)[1].write_bytes(shards(tmp_path / "other")[0].read_bytes())
    with pytest.raises(ValueError, match=r"00001-of-.*: it has 1 records, due 4; copy the file"):
        from_records(records)


def test_records_of_another_conversion_are_not_taken_for_these(folder, records, tmp_path, rng):
    write_random_photo(folder / "ant" / "1.jpg", rng, 10, 14)
    to_records(image_folder(folder), tmp_path / "other", num_shards=3)
    assert from_records(records).digest != from_records(tmp_path / "other").digest
    shards(tmp_path / "other")[0].rename(records / shards(tmp_path / "other")[0].name)
    assert len(shards(records)) == 4
    (records / from_records(records).files[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"00000-of-00003.\w{8}.array_record is missing"):
        from_records(records)


@pytest.mark.parametrize("size", [None, 6])
def test_any_changed_bit_of_a_photo_is_noticed(folder, tmp_path, rng, size):
    """ArrayRecord's own checksums are the only ones of each photo."""
    to_records(image_folder(folder), tmp_path / "records", size=size, num_shards=1)
    (path,), rows = shards(tmp_path / "records"), np.arange(11)
    content = path.read_bytes()
    photos = [from_records(tmp_path / "records").records[row] for row in rows]
    for _ in range(150):
        row = rng.integers(11)
        damaged = bytearray(content)
        place = content.index(photos[row]) + rng.integers(len(photos[row]))
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"array_record\[{row}\]: .*; copy the file again"):
            from_records(tmp_path / "records")[rows]


def test_a_damaged_record_is_named(folder, records):
    path = shards(records)[1]
    content = bytearray(path.read_bytes())
    content[content.index((folder / "cat" / "0.png").read_bytes()) + 40] ^= 1
    path.write_bytes(content)
    source = from_records(records)
    source[np.array([4, 6])]
    with pytest.raises(
        ValueError, match=r"00001-of-00003.\w{8}.array_record\[2\]: .*; copy the file"
    ):
        source[np.array([4, 5, 6])]


def test_a_shard_that_is_cut_while_it_is_read_is_named(records):
    source = from_records(records)
    source[np.array([0])]
    os.truncate(shards(records)[0], 20)
    with pytest.raises(ValueError, match=r"00000-of-00003.\w{8}.array_record\[0\]: "):
        source[np.array([0])]


def _rewrite(folder, **changes):
    with safe_open(folder / MANIFEST, "numpy") as file:
        arrays = {"labels": file.get_tensor("labels")}
        about = {**json.loads(file.metadata()["records"]), **changes}
    safetensors_numpy.save_file(arrays, folder / MANIFEST, {"records": json.dumps(about)})


def test_a_manifest_of_another_version_is_refused(records):
    _rewrite(records, version=1)
    with pytest.raises(ValueError, match=rf"{MANIFEST} is of version 1, due 2; convert the photos"):
        from_records(records)


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_a_changed_manifest_is_refused(records, name):
    if name == "labels":
        content = bytearray((records / MANIFEST).read_bytes())
        content[-1] ^= 1
        (records / MANIFEST).write_bytes(content)
    else:
        _rewrite(records, classes=["bee", "cat"])
    with pytest.raises(ValueError, match=rf"{MANIFEST} has another digest than it was written"):
        from_records(records)


@pytest.mark.parametrize(
    ("arrays", "about", "message"),
    [
        ({}, {"shards": [["../a.array_record", 5, 9]]}, "must have the name of a file, got '../a"),
        ({}, {"shards": [["/a.array_record", 5, 9]]}, "must have the name of a file, got '/a"),
        ({}, {"shards": [[".", 5, 9]]}, "must have the name of a file, got '.'"),
        ({}, {"shards": [["a.array_record[0:9]", 5, 9]]}, "must have the name of a file"),
        ({}, {"shards": [["gs://a", 5, 9]]}, "must have the name of a file"),
        ({}, {"shards": [[3, 5, 9]]}, "must have the name of a file, got 3"),
        ({}, {"shards": [["a", -5, 9], ["b", 10, 9]]}, "shard a must have a number of records"),
        ({}, {"shards": [["a", 5, 9.0]]}, "shard a must have a number of records"),
        ({}, {"shards": [["a", 5]]}, "missing 1 required"),
        ({}, {"shards": [["a", 4, 9]]}, r"labels must be uint8 \(4, 2\), got uint8 \(5, 2\)"),
        ({}, {"classes": ["a"]}, r"labels must be uint8 \(5, 1\), got uint8 \(5, 2\)"),
        ({}, {"classes": ["a", 3]}, "classes must be names"),
        ({}, {"classes": None}, "'NoneType' object is not iterable"),
        ({}, {"size": 0}, "size must be 1 or more, got 0"),
        ({}, {"size": "8"}, "size must be 1 or more, got '8'"),
        ({}, {"shape": [8]}, "shape must be a height and a width"),
        ({"labels": np.zeros((5, 2))}, {}, "labels must be uint8 .*, got float64"),
        ({"labels": np.zeros(5, np.uint8)}, {}, "labels must be int64 .*, got uint8"),
        ({"labels": np.full((5, 2), 7, np.uint8)}, {}, "labels must lie in 0 to 1"),
        ({"labels": np.arange(-1, 4)}, {}, "labels must lie in 0 to 1"),
        ({"part.a": np.array([0, 5])}, {}, "part a must hold rows from 0 to 4"),
        ({"part.a": np.array([-1])}, {}, "part a must hold rows from 0 to 4"),
        ({"part.a": np.zeros(2)}, {}, "part a must hold rows from 0 to 4"),
    ],
)
def test_a_manifest_that_anyone_could_have_written_is_checked(tmp_path, arrays, about, message):
    due = {"labels": np.zeros((5, 2), np.uint8)}
    whole = {"version": 2, "photos": "0", "classes": ["a", "b"], "shards": [["a-b_c.0", 5, 9]]}
    whole |= {"size": None, "shape": [8, 8]}
    for more, says, expected in (({}, {}, None), (arrays, about, message)):
        tensors, said = due | more, whole | says
        said["digest"] = record_manifest._digest(said, tensors)
        safetensors_numpy.save_file(tensors, tmp_path / MANIFEST, {"records": json.dumps(said)})
        if expected is None:
            assert record_manifest.read_manifest(tmp_path).shards[0].name == "a-b_c.0"
            continue
        with pytest.raises(ValueError, match=rf"cannot read .*{MANIFEST}: .*{expected}") as caught:
            record_manifest.read_manifest(tmp_path)
        assert "\n" not in str(caught.value)


def test_stored_photos_of_too_many_pixels_are_refused(folder, tmp_path, monkeypatch):
    to_records(image_folder(folder), tmp_path / "records", size=6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    with pytest.raises(ValueError, match=r"photos of 6 x 6 pixels in .*records have more than 35"):
        from_records(tmp_path / "records")


@pytest.mark.parametrize("length", [0, 5, 200])
def test_a_damaged_manifest_is_refused(records, length):
    os.truncate(records / MANIFEST, length)
    with pytest.raises(
        ValueError, match=rf"cannot read .*{MANIFEST}: .*; convert the photos again"
    ):
        from_records(records)


def test_another_safetensors_file_is_no_manifest(records):
    for about in (None, {"records": "[1]"}, {"records": "no JSON"}, {"other": "{}"}):
        safetensors_numpy.save_file({"labels": np.zeros(2)}, records / MANIFEST, about)
        with pytest.raises(ValueError, match=rf"cannot read .*{MANIFEST}: .*; convert the photos"):
            from_records(records)


def test_any_damage_to_a_manifest_is_noticed(records, rng):
    content = (records / MANIFEST).read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (records / MANIFEST).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{MANIFEST}.*; convert the photos") as caught:
            from_records(records)
        assert "\n" not in str(caught.value)
