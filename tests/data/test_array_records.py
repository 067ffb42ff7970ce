"""Records equal the photos they were made of, and nothing that is not them is read as them."""

import json
import multiprocessing
import os
import pathlib
import pickle
import subprocess
import sys
import threading
from concurrent import futures

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from quantjax.data import (
    Photos,
    array_records,
    from_records,
    image_folder,
    image_folders,
    record_manifest,
    record_writer,
    to_records,
)

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")

MANIFEST = record_manifest.NAME


def save(path, rng, height=12, width=12, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path, rng):
    """Eleven photos of two classes, formats and orientations, one size as they are seen."""
    lying = Image.Exif()
    lying[0x0112] = 6
    for i in range(5):
        save(tmp_path / "photos" / "ant" / f"{i}.jpg", rng, 10, 14)
    for i in range(5):
        save(tmp_path / "photos" / "cat" / f"{i}.png", rng, 10, 14)
    save(tmp_path / "photos" / "cat" / "lying.jpg", rng, 14, 10, exif=lying)
    return tmp_path / "photos"


@pytest.fixture
def records(folder, tmp_path):
    to_records(image_folder(folder), tmp_path / "records", num_shards=3)
    return tmp_path / "records"


def shards(folder):
    return sorted(folder.glob("*.array_record"))


def assert_equal(source, due, rows):
    batch, expected = source[rows], due[rows]
    assert batch.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(batch[name], column, strict=True)


@pytest.mark.parametrize("size", [None, 5, 32])
@pytest.mark.parametrize("num_shards", [1, 2, 11])
def test_records_equal_the_photos_bit_for_bit(folder, tmp_path, rng, size, num_shards):
    due = image_folder(folder, size=size)
    to_records(due, tmp_path / "records", num_shards=num_shards)
    source = from_records(tmp_path / "records", size=size, num_threads=num_shards)
    assert len(shards(tmp_path / "records")) == num_shards
    assert len(source) == 11
    assert source.classes == due.classes
    np.testing.assert_array_equal(source.labels, due.labels, strict=True)
    assert_equal(source, due, np.arange(11))
    assert_equal(source, due, rng.permutation(11))
    assert_equal(source, due, rng.integers(0, 11, (4, 2), np.int32))


def test_stored_pixels_equal_the_photos_of_that_size(folder, tmp_path, rng):
    to_records(image_folder(folder), tmp_path / "records", size=6, num_shards=2)
    due = image_folder(folder, size=6)
    for size in (None, 6):
        source = from_records(tmp_path / "records", size=size)
        assert_equal(source, due, rng.permutation(11))
        assert source.size == 6
    with pytest.raises(ValueError, match=r"size must be 6, .* got 7; .* with --size=7"):
        from_records(tmp_path / "records", size=7)


def test_photos_are_stored_as_they_are(folder, records):
    content = b"".join(path.read_bytes() for path in shards(records))
    for path in folder.glob("*/*"):
        assert path.read_bytes() in content


def test_mixed_sizes_are_taken_with_a_size_and_refused_without(folder, tmp_path, rng):
    save(folder / "ant" / "wide.png", rng, 10, 15)
    due = image_folder(folder, size=7)
    to_records(due, tmp_path / "records")
    assert_equal(from_records(tmp_path / "records", size=7), due, np.arange(12))
    with pytest.raises(ValueError, match=r"one size, those of .*records have several; pass size="):
        from_records(tmp_path / "records")


def test_parts_are_found_again(folder, tmp_path, rng):
    for part in ("train", "test"):
        for name in ("ant", "cat"):
            save(tmp_path / "parts" / part / name / f"{part}.png", rng)
    due, (train, test) = image_folders(tmp_path / "parts", ("train", "test"))
    to_records(due, tmp_path / "records", parts={"train": train, "test": test})
    source = from_records(tmp_path / "records")
    assert list(source.parts) == ["test", "train"]
    np.testing.assert_array_equal(source.parts["train"], train, strict=True)
    np.testing.assert_array_equal(source.parts["test"], test, strict=True)


def test_class_ids_stay_class_ids(folder, tmp_path):
    paths = image_folder(folder).paths
    due = Photos(paths, np.arange(11) % 4, ("a", "b", "c", "d"), None)
    to_records(due, tmp_path / "records")
    source = from_records(tmp_path / "records")
    np.testing.assert_array_equal(source.labels, due.labels, strict=True)
    assert_equal(source, due, np.array([10, 2, 3]))


def test_several_labels_stay_and_a_large_table_of_one_each_becomes_ids(
    folder, tmp_path, rng, monkeypatch
):
    monkeypatch.setattr(record_writer, "_TABLE", 20)
    one = image_folder(folder)
    to_records(one, tmp_path / "one")
    source = from_records(tmp_path / "one")
    np.testing.assert_array_equal(source.labels, one.labels.argmax(axis=1), strict=True)
    assert_equal(source, one, rng.permutation(11))
    several = Photos(one.paths, np.ones((11, 2), np.uint8), one.classes, None)
    to_records(several, tmp_path / "several")
    np.testing.assert_array_equal(from_records(tmp_path / "several").labels, several.labels)


def test_many_photos_make_several_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "_PER_SHARD", 4)
    to_records(image_folder(folder), tmp_path / "three")
    assert len(shards(tmp_path / "three")) == 3
    monkeypatch.setattr(record_writer, "_MOST_SHARDS", 2)
    to_records(image_folder(folder), tmp_path / "two")
    assert len(shards(tmp_path / "two")) == 2


def test_a_conversion_is_reproducible_and_tells_how_far_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "_BATCH", 4)
    told = []
    for name in ("a", "b"):
        to_records(
            image_folder(folder),
            tmp_path / name,
            num_shards=2,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told == [(4, 11), (8, 11), (11, 11)] * 2
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_rows_out_of_range_are_refused(records):
    source = from_records(records)
    for rows in ([11], [-1], [True] * 11):
        with pytest.raises(IndexError, match="rows must"):
            source[np.array(rows)]


def test_numbers_out_of_range_are_refused(folder, records, tmp_path):
    photos = image_folder(folder)
    for number in (0, 12):
        with pytest.raises(ValueError, match=rf"num_shards must be 1 to 11, .*, got {number}"):
            to_records(photos, tmp_path / "new", num_shards=number)
    with pytest.raises(ValueError, match="size must be 1 pixel or more, got 0"):
        to_records(photos, tmp_path / "new", size=0)
    with pytest.raises(ValueError, match="size must be 1 pixel or more, got 0"):
        from_records(records, size=0)
    with pytest.raises(ValueError, match="num_threads must be 1 or more, got 0"):
        from_records(records, num_threads=0)
    assert not (tmp_path / "new").exists()


def test_no_image_is_read_before_it_is_asked_for(records, monkeypatch):
    def decode(*arguments, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(array_records.photos, "decode", decode)
    source = from_records(records)
    assert source.labels.sum() == 11
    with pytest.raises(AssertionError, match="decoded"):
        source[np.array([0])]


def test_records_are_written_where_a_link_leads(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "records").symlink_to(tmp_path / "disk")
    to_records(image_folder(folder), tmp_path / "records")
    assert len(from_records(tmp_path / "records")) == 11
    assert (tmp_path / "records").is_symlink()


def test_a_place_that_cannot_be_replaced_is_refused_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(ValueError, match="disk is where a disk is mounted; name a folder inside"):
        to_records(image_folder(folder), tmp_path / "disk")
    to_records(image_folder(folder), tmp_path / "disk" / "records")


def test_as_many_threads_decode_as_are_asked_for(records, monkeypatch):
    used = set()
    together = threading.Barrier(3, timeout=10)

    def decode(*arguments, **options):
        used.add(threading.get_ident())
        together.wait()
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(array_records.photos, "decode", decode)
    from_records(records, num_threads=3)[np.arange(9)]
    assert len(used) == 3


@pytest.mark.parametrize(("size", "small", "due"), [(None, 0, 5), (None, 1e6, 1), (6, 0, 1)])
def test_one_thread_decodes_what_is_small(folder, tmp_path, monkeypatch, size, small, due):
    monkeypatch.setattr(array_records, "_SMALL", small)
    monkeypatch.setattr(array_records.os, "cpu_count", lambda: 5)
    to_records(image_folder(folder), tmp_path / "records", size=size)
    assert from_records(tmp_path / "records").num_threads == due
    assert from_records(tmp_path / "records", num_threads=2).num_threads == 2


def test_threads_read_at_once(folder, records, rng):
    source, due = from_records(records, num_threads=3), image_folder(folder)
    orders = [rng.permutation(11) for _ in range(64)]
    with futures.ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(source.__getitem__, orders))
    everything = due[np.arange(11)]["image"]
    for rows, batch in zip(orders, batches, strict=True):
        np.testing.assert_array_equal(batch["image"], everything[rows])


def test_a_source_travels_to_another_process(folder, records):
    source = from_records(records, num_threads=2)
    rows = np.arange(11)[::-1]
    due = image_folder(folder)[rows]["image"]
    source[rows]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(source.__getitem__, (rows,))["image"], due)
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied[rows]["image"], due)
    np.testing.assert_array_equal(source[rows]["image"], due)


@pytest.mark.slow
def test_a_pass_over_more_than_may_be_held_holds_nothing(tmp_path, rng):
    """140 MB of noise, read by a process whose memory grows by less than a third of that."""
    for i in range(12):
        save(tmp_path / "photos" / "a" / f"{i}.png", rng, 256, 256)
    one = image_folder(tmp_path / "photos")
    many = Photos(one.paths * 60, np.ones((720, 1), np.uint8), one.classes, None)
    to_records(many, tmp_path / "records", num_shards=4)
    assert sum(path.stat().st_size for path in shards(tmp_path / "records")) > 140e6
    program = f"""
import resource
import numpy as np
from quantjax import data
source = data.from_records({str(tmp_path / "records")!r}, num_threads=2)
order = np.random.default_rng(0).permutation(720).reshape(-1, 24)
source[order[0]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rows in order:
    source[rows]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) * 1024 < 45e6


def test_a_missing_folder_and_one_without_records_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder, .*quantjax\.cli records"):
        from_records(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"holds no finished records, {MANIFEST} is not"):
        from_records(folder)


def test_a_missing_shard_is_named(records):
    shards(records)[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"photos-00001-of-00003.array_record is missing"):
        from_records(records)


def test_a_cut_shard_is_named(records):
    os.truncate(shards(records)[1], 65536)
    with pytest.raises(ValueError, match=r"00001-of-00003.array_record has 65,536 bytes, due 1\d"):
        from_records(records)


def test_a_shard_of_other_content_is_named(records):
    path = shards(records)[2]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"cannot read .*00002-of-00003.array_record: ") as caught:
        from_records(records)
    assert "\n" not in str(caught.value)


def test_a_shard_with_another_number_of_records_is_named(folder, records, tmp_path):
    to_records(image_folder(folder), tmp_path / "other", num_shards=11)
    for shard in (0, 1):  # of 3 and of 1 records, in files of the same size
        assert shards(records)[shard].stat().st_size == shards(tmp_path / "other")[0].stat().st_size
    shards(records)[1].write_bytes(shards(tmp_path / "other")[0].read_bytes())
    with pytest.raises(ValueError, match=r"00001-of-.*: it has 1 records, due 4; copy the file"):
        from_records(records)


def test_records_of_another_conversion_are_refused(folder, records, tmp_path, rng):
    before = from_records(records)[np.arange(11)]["image"]
    save(folder / "ant" / "1.jpg", rng, 10, 14)
    to_records(image_folder(folder), tmp_path / "other", num_shards=3)
    shards(records)[0].write_bytes(shards(tmp_path / "other")[0].read_bytes())
    source = from_records(records)
    others = np.delete(np.arange(11), 1)
    np.testing.assert_array_equal(source[others]["image"], before[others])
    with pytest.raises(ValueError, match=r"00000-of-00003.array_record\[1\]: its checksum is not"):
        source[np.array([2, 1])]


def test_a_damaged_record_is_named(folder, records):
    path = shards(records)[1]
    content = bytearray(path.read_bytes())
    content[content.index((folder / "cat" / "0.png").read_bytes()) + 40] ^= 1
    path.write_bytes(content)
    source = from_records(records)
    source[np.array([4, 6])]
    with pytest.raises(ValueError, match=r"00001-of-00003.array_record\[2\]: .*; copy the file"):
        source[np.array([4, 5, 6])]


def test_a_shard_that_is_cut_while_it_is_read_is_named(records):
    source = from_records(records)
    source[np.array([0])]
    os.truncate(shards(records)[0], 20)
    with pytest.raises(ValueError, match=r"00000-of-00003.array_record\[0\]: "):
        source[np.array([0])]


def _rewrite(folder, **changes):
    with safe_open(folder / MANIFEST, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in ("labels", "checksums")}
        about = {**json.loads(file.metadata()["records"]), **changes}
    safetensors_numpy.save_file(arrays, folder / MANIFEST, {"records": json.dumps(about)})


def test_a_manifest_of_another_version_is_refused(records):
    _rewrite(records, version=2)
    with pytest.raises(ValueError, match=rf"{MANIFEST} is of version 2, due 1; convert the photos"):
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
        ({"checksums": np.zeros(4, np.uint32)}, {}, r"checksums must be uint32 \(5,\), got uint32"),
        ({"checksums": np.zeros(5, np.int64)}, {}, "checksums must be uint32 .*, got int64"),
        ({"part.a": np.array([0, 5])}, {}, "part a must hold rows from 0 to 4"),
        ({"part.a": np.array([-1])}, {}, "part a must hold rows from 0 to 4"),
        ({"part.a": np.zeros(2)}, {}, "part a must hold rows from 0 to 4"),
    ],
)
def test_a_manifest_that_anyone_could_have_written_is_checked(tmp_path, arrays, about, message):
    due = {"labels": np.zeros((5, 2), np.uint8), "checksums": np.zeros(5, np.uint32)}
    whole = {"version": 1, "classes": ["a", "b"], "shards": [["a-b_c.0", 5, 9]]}
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


def test_a_full_disk_is_told_and_leaves_nothing(folder, tmp_path):
    """The limit on the size of a file stands for the disk."""
    program = f"""
import resource
from quantjax import data
photos = data.image_folder({str(folder)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    data.to_records(photos, {str(tmp_path / "records")!r})
except OSError as error:
    print(error)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith("cannot write ")
    assert "File too large" in out
    assert out.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_folder_that_holds_something_is_left_alone(folder, records, tmp_path):
    before = {path: path.read_bytes() for path in records.iterdir()}
    with pytest.raises(ValueError, match="records is not an empty folder; choose another"):
        to_records(image_folder(folder), records)
    assert {path: path.read_bytes() for path in records.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not an empty folder"):
        to_records(image_folder(folder), tmp_path / "file")
    (tmp_path / "empty").mkdir()
    to_records(image_folder(folder), tmp_path / "empty")
    assert len(from_records(tmp_path / "empty")) == 11


@pytest.mark.parametrize("size", [None, 4])
def test_an_unreadable_photo_is_named_and_nothing_is_left(folder, tmp_path, size):
    photos = image_folder(folder)
    content = (folder / "cat" / "3.png").read_bytes()
    (folder / "cat" / "3.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot read photo .*3\.png: .*; replace it or take it"):
        to_records(photos, tmp_path / "records", size=size)
    (folder / "cat" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"cannot read photo .*3\.png: .*No such file"):
        to_records(photos, tmp_path / "records", size=size)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_killed_conversion_leaves_nothing_that_looks_finished(folder, tmp_path):
    program = f"""
import os, signal
from quantjax import data
from quantjax.data import record_writer
record_writer._BATCH = 4
data.to_records(
    data.image_folder({str(folder)!r}),
    {str(tmp_path / "records")!r},
    num_shards=3,
    progress=lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGKILL),
)
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "records").exists()
    (scratch,) = tmp_path.glob(".*")
    with pytest.raises(FileNotFoundError, match="holds no finished records"):
        from_records(scratch)
    to_records(image_folder(folder), tmp_path / "records", num_shards=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "records"]
    assert_equal(from_records(tmp_path / "records"), image_folder(folder), np.arange(11))


def test_a_missing_package_names_the_extra(folder, records, tmp_path, monkeypatch):
    match = r'{} is not installed: pip install "quantjax\[stream\]"'
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "grain", None)
        with pytest.raises(ModuleNotFoundError, match=match.format("grain")):
            from_records(records)
        with pytest.raises(ModuleNotFoundError, match=match.format("grain")):
            to_records(image_folder(folder), tmp_path / "new")
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(ModuleNotFoundError, match=match.format("array_record")):
        to_records(image_folder(folder), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "records"]
