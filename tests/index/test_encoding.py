"""Any number of parts, kills and resumes give the bytes of one undisturbed encoding."""

import json
import os
import shutil
from concurrent import futures

import numpy as np
import pytest

from quantjax import index
from quantjax.errors import InputError
from quantjax.index import encoding, parts
from quantjax.run import workdirs
from tests.index import encoders

NAMES = [f"{'ant' if number % 3 else 'cat'}/{number:03}.png" for number in range(300)]
BAD = sorted(NAMES)[5]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos, one of them unreadable, an encoder, and an index of both."""
    folder = tmp_path_factory.mktemp("encoding")
    encoders.plant_photos(folder / "photos", NAMES)
    (folder / "photos" / BAD).write_bytes(b"\x89PNG broken")
    encoders.of_photos(folder / "run" / "encoder")
    index.encode(folder / "run", folder / "photos", folder / "index", keep_vectors=True)
    return folder


def files_of(folder):
    names = ("codes.json", "codes-1.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def encode_parts(place, out, numbers, num_parts):
    job = index.make_job(
        place / "run", place / "photos", out, num_parts=num_parts, keep_vectors=True
    )
    return [index.encode_part(job, number) for number in numbers]


def test_an_index_has_the_codes_of_the_encoder_for_each_name(place):
    found, encoder = index.load(place / "index"), index.load_encoder(place / "run")
    due = [name for name in sorted(NAMES) if name != BAD]
    assert found.ids.tolist() == due
    paths = [place / "photos" / name for name in due]
    np.testing.assert_array_equal(found.codes, encoder(paths))
    np.testing.assert_array_equal(found.vectors, encoder.embed(paths).astype(np.float16))
    assert found.manifest["classes"] == ["ant", "cat"]
    assert [found.manifest["classes"][label] for label in found.labels] == [
        name.partition("/")[0] for name in due
    ]
    assert found.manifest["root"] == str(place / "photos")
    assert found.manifest["encoder"] == encoder.digest


def test_an_index_is_all_that_is_left(place):
    names = {path.name for path in (place / "index").iterdir()}
    assert names == {"codes.json", "codes-1.safetensors", "encoder", ".lock"}


def test_an_unreadable_photo_is_skipped_and_recorded(place):
    assert index.load(place / "index").manifest["failures"] == [[BAD, "cannot identify image file"]]


@pytest.mark.parametrize("num_parts", [1, 2, 3, 5])
def test_merged_parts_have_the_bytes_of_one_encoding(place, num_parts, tmp_path):
    encode_parts(place, tmp_path / "parts", reversed(range(num_parts)), num_parts)
    index.merge([tmp_path / "parts"], tmp_path / "index")
    assert files_of(tmp_path / "index") == files_of(place / "index")


def test_parts_of_several_machines_are_merged(place, tmp_path):
    for number in range(3):
        encode_parts(place, tmp_path / str(number), [number], 3)
    index.merge([tmp_path / str(number) for number in (2, 0, 1)], tmp_path / "index")
    assert files_of(tmp_path / "index") == files_of(place / "index")


def test_a_killed_encoding_goes_on_after_its_last_chunk(place, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_CHUNK", encoding.BLOCK)
    write, read, seen = parts.write_chunk, encoding.read_photo, []

    def killed(folder, begin, *rest):
        if begin:
            raise KeyboardInterrupt
        write(folder, begin, *rest)

    with monkeypatch.context() as context:
        context.setattr(parts, "write_chunk", killed)
        with pytest.raises(KeyboardInterrupt):
            index.encode(place / "run", place / "photos", tmp_path / "index", keep_vectors=True)
    assert not (tmp_path / "index" / "codes.json").exists()
    monkeypatch.setattr(
        encoding,
        "read_photo",
        lambda items, row, photos: seen.append(row) or read(items, row, photos),
    )
    index.encode(place / "run", place / "photos", tmp_path / "index", keep_vectors=True)
    assert sorted(seen) == list(range(encoding.BLOCK, 300))
    assert files_of(tmp_path / "index") == files_of(place / "index")


def test_chunks_end_after_some_time(place, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS", 0.0)
    part = encode_parts(place, tmp_path, [0], 1)[0]
    assert [*part.chunks] == [
        f"chunk-{begin:012}-{end:012}.safetensors"
        for begin, end in ((0, 128), (128, 256), (256, 300))
    ]


def test_photos_that_vanish_are_failures(place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos")
    job = index.make_job(place / "run", tmp_path / "photos", tmp_path / "parts")
    gone = sorted(NAMES)[7]
    (tmp_path / "photos" / gone).unlink()
    part = index.encode_part(job, 0)
    assert [name for name, _ in part.failures] == [BAD, gone]
    assert "No such file" in part.failures[1][1]


def test_a_folder_that_changed_is_not_gone_on_with(place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos")
    encode = index.make_job(place / "run", tmp_path / "photos", tmp_path / "parts")
    index.encode_part(encode, 0)
    encoders.plant_photos(tmp_path / "photos", ["new.png"])
    again = index.make_job(place / "run", tmp_path / "photos", tmp_path / "parts")
    with pytest.raises(InputError, match="was begun with other items, end; remove it, or encode"):
        index.encode_part(again, 0)


def test_parts_of_another_encoder_are_not_joined_by_this_one(place, tmp_path):
    index.make_job(place / "run", place / "photos", tmp_path / "parts")
    other = encoders.of_photos(tmp_path / "other", photos=index.Preparation(9))
    with pytest.raises(InputError, match="has parts of another encoder; encode to another folder"):
        index.make_job(other, place / "photos", tmp_path / "parts")


def test_two_processes_do_not_take_one_part(place, tmp_path):
    job = index.make_job(place / "run", place / "photos", tmp_path / "parts")
    with (
        workdirs.held(parts.folder_of(job.folder, 0, 1)),
        futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(InputError, match=f"is in use by process {os.getpid()} on"),
    ):
        pool.submit(index.encode_part, job, 0).result()


def test_vectors_are_numbered_and_those_of_nan_are_failures(tmp_path, rng):
    x = rng.normal(size=(300, 16)).astype(np.float32)
    x[7, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    encoders.of_vectors(tmp_path / "encoder")
    manifest = index.encode(tmp_path / "encoder", tmp_path / "x.npy", tmp_path / "index")
    assert manifest["failures"] == [["7", "NaN or infinity"]]
    found, rows = index.load(tmp_path / "index"), np.delete(np.arange(300), 7)
    np.testing.assert_array_equal(found.ids, rows)
    np.testing.assert_array_equal(
        np.unpackbits(found.codes, axis=1, bitorder="little"), x[rows] >= 0
    )
    assert found.labels is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: shutil.rmtree(place / "part-00001-of-00003"),
         r"parts 1 of 3 are missing; encode them by --shard=1/3"),
        (lambda place: (place / "part-00002-of-00003" / "part.json").unlink(),
         r"parts 2 of 3 are missing"),
        (lambda place: next((place / "part-00000-of-00003").glob("chunk*")).unlink(),
         r"cannot read .*chunk-.*: the file is not there; remove its folder and encode the part"),
        (lambda place: shutil.copytree(place / "part-00001-of-00003", place / "part-copy"),
         r"part-00001-of-00003 and .*part-copy are the same part; name one of them"),
    ],
)  # fmt: skip
def test_parts_that_are_not_whole_are_refused_by_name(place, change, message, tmp_path):
    encode_parts(place, tmp_path / "parts", range(3), 3)
    change(tmp_path / "parts")
    with pytest.raises(InputError, match=message):
        index.merge([tmp_path / "parts"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_altered_chunk_is_refused_by_name(place, tmp_path):
    encode_parts(place, tmp_path / "parts", range(1), 1)
    path = next((tmp_path / "parts").glob("part-*/chunk-*"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"cannot read {path}: it is not what part.json says"):
        index.merge([tmp_path / "parts"], tmp_path / "index")


def test_an_altered_manifest_of_a_part_is_refused(place, tmp_path):
    encode_parts(place, tmp_path / "parts", range(1), 1)
    path = next((tmp_path / "parts").glob("part-*/part.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"root": "/elsewhere"}))
    with pytest.raises(
        InputError, match=r"part\.json: what it says of itself is not what was saved"
    ):
        index.merge([tmp_path / "parts"], tmp_path / "index")


def test_foreign_and_unfinished_parts_are_refused_by_name(place, tmp_path):
    encode_parts(place, tmp_path / "a", [0], 2)
    other = index.make_job(place / "run", place / "photos" / "ant", tmp_path / "b", num_parts=2)
    index.encode_part(other, 1)
    with pytest.raises(
        InputError, match=r"part-00001-of-00002 has other items than .*a/part-00000"
    ):
        index.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "index")
    begun = encode_parts(place, tmp_path / "c", [1], 2)[0]
    folder = parts.folder_of(tmp_path / "c", 1, 2)
    parts._write(folder, begun._replace(chunks=None))
    with pytest.raises(InputError, match=r"not complete: .*c/part-00001-of-00002; start their"):
        index.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "index")


def test_more_parts_than_blocks_are_merged_too(place, tmp_path):
    parts_made = encode_parts(place, tmp_path / "parts", range(5), 5)
    assert sorted(part.end - part.begin for part in parts_made) == [0, 0, 44, 128, 128]


def test_a_folder_of_other_things_is_not_written_to(place, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no index; choose another folder"):
        index.encode(place / "run", place / "photos", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_source_without_a_readable_photo_is_refused(place, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(place / "photos" / BAD, tmp_path / "photos" / "a.png")
    with pytest.raises(InputError, match=r"no item could be read, such as a.png \(cannot identify"):
        index.encode(place / "run", tmp_path / "photos", tmp_path / "index")


def test_an_encoder_of_arrays_takes_no_files(place, tmp_path):
    from_arrays = encoders.of_photos(tmp_path / "encoder", photos=None)
    with pytest.raises(InputError, match="encoder encodes arrays of pixels, not files"):
        index.encode(from_arrays, place / "photos", tmp_path / "index")
