"""Records equal the photos they were made of, and a conversion ends whole or leaves nothing."""

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

from quantjax.data import (
    Photos,
    from_records,
    image_folder,
    image_folders,
    record_manifest,
    record_writer,
    to_records,
)
from quantjax.data import records as records_reader
from tests.data.photo_files import shards, write_random_photo

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")

MANIFEST = record_manifest.NAME


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
    write_random_photo(folder / "ant" / "wide.png", rng, 10, 15)
    due = image_folder(folder, size=7)
    to_records(due, tmp_path / "records")
    assert_equal(from_records(tmp_path / "records", size=7), due, np.arange(12))
    with pytest.raises(ValueError, match=r"one size, those of .*records have several; .*--size=PX"):
        from_records(tmp_path / "records")


def test_parts_are_found_again(folder, tmp_path, rng):
    for part in ("train", "test"):
        for name in ("ant", "cat"):
            write_random_photo(tmp_path / "parts" / part / name / f"{part}.png", rng)
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

    monkeypatch.setattr(records_reader, "decode", decode)
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

    monkeypatch.setattr(records_reader, "decode", decode)
    from_records(records, num_threads=3)[np.arange(9)]
    assert len(used) == 3


@pytest.mark.parametrize(("size", "small", "due"), [(None, 0, 5), (None, 1e6, 1), (6, 0, 1)])
def test_one_thread_decodes_what_is_small(folder, tmp_path, monkeypatch, size, small, due):
    monkeypatch.setattr(records_reader, "_SMALL", small)
    monkeypatch.setattr(records_reader.os, "cpu_count", lambda: 5)
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
        write_random_photo(tmp_path / "photos" / "a" / f"{i}.png", rng, 256, 256)
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


def test_a_shard_of_unreadable_photos_alone_is_left_out(folder, tmp_path):
    photos = image_folder(folder)
    for name in ("0", "1", "2"):
        (folder / "ant" / f"{name}.jpg").write_bytes(b"no photo")
    parts = {"train": np.array([0, 3, 4]), "test": np.array([10, 1])}
    (note,) = to_records(
        photos, tmp_path / "records", num_shards=5, parts=parts, skip_unreadable=True
    )
    assert note.startswith(f"skipped 3 unreadable: {folder}/ant/0.jpg (cannot identify image file)")
    source = from_records(tmp_path / "records")
    assert [path.name[7:12] for path in shards(tmp_path / "records")] == [
        "00001",
        "00002",
        "00003",
        "00004",
    ]
    kept = np.arange(3, 11)
    np.testing.assert_array_equal(source.labels, photos.labels[kept])
    np.testing.assert_array_equal(source[np.arange(8)]["image"], photos[kept]["image"])
    assert source.parts["train"].tolist() == [0, 1]
    assert source.parts["test"].tolist() == [7]


def test_parts_of_rows_that_are_not_there_are_refused(folder, tmp_path):
    for row in (-1, 11):
        with pytest.raises(IndexError, match="rows must lie in 0 to 10"):
            to_records(image_folder(folder), tmp_path / "records", parts={"a": np.array([0, row])})


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
    match = r"needs {}.*, which is not installed: pip install 'quantjax\[stream\]'"
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
