"""Codes on disk come back to the bit, and nothing else comes back at all."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import struct
from concurrent import futures

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantjax import index
from quantjax.errors import InputError, is_one_line
from quantjax.index import versions
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.run import workdirs
from quantjax.run.tensors import digest
from tests.models.weight_files import safetensors

ROOT = pathlib.Path(__file__).parents[2]
LISTS = {
    "lists.centroids": np.zeros((4, 6), np.float32),
    "lists.starts": np.array([0, 9, 9, 30, 50]),
}
LETTERS = np.full(50, ord("a"), np.uint8)


def text_ids(text, ends):
    """Tensors of 50 ids that are strings."""
    return {"ids": None, "ids.text": text, "ids.ends": np.array(ends)}


def product_codec(rng, rotation=None):
    codebooks = jnp.asarray(rng.normal(size=(3, 16, 2)), jnp.float32)
    return ProductCodec(codebooks, rotation=rotation, metric="ip")


@pytest.fixture
def saved(rng, tmp_path):
    codec = product_codec(rng)
    codes = rng.integers(0, 256, (50, 2), dtype=np.uint8)
    codes[:, 1] &= 15
    ids = rng.permutation(1000)[:50]
    index.save(tmp_path, codec, codes, ids=ids)
    return codec, codes, ids, tmp_path


def test_codec_codes_and_ids_come_back_to_the_bit(saved, rng):
    codec, codes, ids, folder = saved
    artefact = index.load(folder)
    np.testing.assert_array_equal(artefact.codes, codes)
    np.testing.assert_array_equal(artefact.ids, ids)
    queries = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    np.testing.assert_array_equal(
        artefact.codec.distances(queries, artefact.codes), codec.distances(queries, codes)
    )
    assert artefact.codec.rotation is None


def test_manifest_says_what_is_stored(saved):
    _, _, _, folder = saved
    manifest = json.loads((folder / "codes.json").read_text())
    assert manifest["format"] == "quantjax-codes"
    assert (manifest["version"], manifest["file"]) == (2, "codes-1.safetensors")
    assert (manifest["codec"], manifest["metric"]) == ("product", "ip")
    assert (manifest["bits"], manifest["num_bytes"], manifest["count"]) == (12, 2, 50)
    assert set(manifest["digests"]) == {"codes", "ids", "codec.codebooks"}


def test_a_rotation_and_a_float_codec_come_back(rng, tmp_path):
    rotation = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 6)))[0], jnp.float32)
    index.save(tmp_path / "r", product_codec(rng, rotation), np.zeros((1, 2), np.uint8))
    np.testing.assert_array_equal(index.load(tmp_path / "r").codec.rotation, rotation)
    index.save(tmp_path / "f", FloatCodec(5, metric="cosine"), np.zeros((2, 20), np.uint8))
    assert index.load(tmp_path / "f").codec == FloatCodec(5, metric="cosine")
    np.testing.assert_array_equal(index.load(tmp_path / "f").ids, [0, 1])


def test_binary_and_residual_codecs_come_back(rng, tmp_path):
    projection = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 4)))[0], jnp.float32)
    offset = jnp.arange(6.0)
    index.save(tmp_path / "b", BinaryCodec(4, offset, projection), np.zeros((1, 1), np.uint8))
    codec, _, _, manifest, *_ = index.load(tmp_path / "b")
    assert (manifest["codec"], manifest["metric"], codec.num_bits) == ("binary", "hamming", 4)
    np.testing.assert_array_equal(codec.offset, offset)
    np.testing.assert_array_equal(codec.projection, projection)
    books = jnp.asarray(rng.normal(size=(3, 16, 2)), jnp.float32)
    index.save(tmp_path / "r", ResidualCodec(books, "ip", beam_width=3), np.zeros((1, 2), np.uint8))
    codec, _, _, manifest, *_ = index.load(tmp_path / "r")
    assert (manifest["codec"], codec.metric, codec.beam_width) == ("residual", "ip", 3)
    np.testing.assert_array_equal(codec.codebooks, books)


def test_a_flipped_byte_is_refused_by_name(saved):
    _, _, _, folder = saved
    path = folder / "codes-1.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="not what the manifest says"):
        index.load(folder)


def test_files_of_two_saves_are_refused(saved, rng, tmp_path):
    codec, codes, _, folder = saved
    index.save(tmp_path / "other", codec, codes[::-1])
    (tmp_path / "other" / "codes.json").replace(folder / "codes.json")
    with pytest.raises(ValueError, match="codes, ids not what the manifest says"):
        index.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("codes.json", b"{", "no readable codes"),
        ("codes.json", b"\xff\xfe", "no readable codes"),
        ("codes-1.safetensors", b"short", "no readable codes"),
        ("codes.json", b'{"format": "other"}', "must be quantjax-codes version 1 or 2, got other"),
        ("codes.json", b"[1]", "no readable codes"),
        ("codes.json", b"[" * 100_000, "no readable codes: maximum recursion depth"),
        ("codes.json", b'{"format": ["a"]}', "got list version None"),
        ("codes.json", b'{"format": "a\\nb"}', "got a b version None"),
        (
            "codes-1.safetensors",
            struct.pack("<Q", 2**40) + b"{}",
            "readable codes: .*header too large",
        ),
        (
            "codes-1.safetensors",
            safetensors({"codes": ("F8_E4M3", (1,), b"a")}),
            "no readable codes",
        ),
        (
            "codes-1.safetensors",
            safetensors({"codes": ("F32", (0, 2**63), b"")}),
            "no readable codes",
        ),
        (
            "codes-1.safetensors",
            safetensors({"a\nb" * 99: ("U8", (1,), b"a")}),
            "a b.* not what the",
        ),
        (
            "codes.json",
            b'{"format": "quantjax-codes", "version": 3}',
            "version 3, this quantjax reads 1 to 2; pip install --upgrade quantjax",
        ),
        (
            "codes.json",
            b'{"format": "quantjax-codes", "version": 1, "codec": "x"}',
            "got codec .x. and digests, settings missing",
        ),
    ],
)
def test_damaged_files_are_refused(saved, name, content, message):
    _, _, _, folder = saved
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        index.load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": ["product"]}, "must name a codec .* got codec 'list'"),
        ({"settings": 3}, "must have an object of settings, got 3"),
        ({"digests": ["codes"]}, "must have an object of digests, got list"),
        ({"codec": "float"}, "do not fit: .*codebooks"),
        ({"settings": {"metric": "ip", "bits": 3}}, "do not fit: 'bits'"),
        ({"settings": {"metric": 3}}, "do not fit: metric must not be 3"),
        ({"settings": {"metric": "foo"}}, "do not fit: metric must be one of"),
        ({"settings": {"metric": "ip", "rotation": 3}}, "do not fit: rotation must be a tensor"),
        ({"metric": "l2"}, "do not fit: metric must be 'ip', got 'l2'"),
        ({"bits": 13}, "do not fit: bits must be 12, got 13"),
        ({"count": 49}, "do not fit: count must be 50, got 49"),
        ({"file": "../other/codes-1.safetensors"}, "must name codes-N.safetensors, got ../other"),
        ({"file": ["codes-1.safetensors"]}, "must name codes-N.safetensors, got list"),
        ({"classes": ["a", 3]}, "must have a list of classes, got list"),
    ],
)
def test_a_manifest_of_other_codes_is_refused(saved, change, message):
    _, _, _, folder = saved
    manifest = json.loads((folder / "codes.json").read_text())
    (folder / "codes.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=message) as caught:
        index.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"codes": np.zeros((50, 3), np.uint8)},
            r"codes must be uint8 \[N, 2\], got uint8 \(50, 3\)",
        ),
        ({"codes": np.zeros((50, 2), np.int64)}, r"codes must be uint8 \[N, 2\]"),
        ({"ids": np.zeros(49, np.int64)}, r"ids must have shape \(50,\), got \(49,\)"),
        ({"ids": np.zeros(50, np.int32)}, "ids must be int64, got int32"),
        ({"ids.text": np.zeros(50, np.uint8)}, "do not fit: 'ids.ends'"),
        (text_ids(LETTERS, np.arange(50)), "ids.ends must rise to 50, the length of ids.text"),
        (
            text_ids(LETTERS, np.arange(1, 51) - 99 * (np.arange(50) == 7)),
            "ids.ends must rise to 50",
        ),
        (
            text_ids(LETTERS, np.arange(1, 51, dtype=np.int32)),
            "ids.text must be uint8 and ids.ends",
        ),
        (text_ids(LETTERS + 100, np.arange(1, 51)), "do not fit: 'utf-8' codec can't decode"),
        ({"codes": None}, "do not fit: 'codes'"),
        ({"ids": None}, "do not fit: 'ids'"),
        ({"codec.codebooks": None}, "do not fit: .*codebooks"),
        ({"codec.codebooks": np.zeros(3, np.float32)}, "do not fit: tuple index"),
        ({"codec.codebooks": np.zeros((3, 15, 2), np.float32)}, "do not fit: .*power of two"),
        ({"codec.codebooks": np.zeros((3, 16, 2), np.int32)}, "must be of real numbers, got int32"),
        ({"codec.codebooks": np.full((3, 16, 2), 1e99)}, "do not fit: overflow"),
        ({"codec.codebooks": np.full((3, 16, 2), np.nan)}, "do not fit: .*of finite numbers"),
        ({"codec.rotation": np.eye(5)}, r"do not fit: rotation must have shape \(6, 6\)"),
        ({"codes": np.full((50, 2), 255, np.uint8)}, "codes must have zeros behind their 12 bits"),
        ({"codec.metric": np.zeros(3, np.float32)}, "do not fit: "),
        ({"codec.other": np.zeros(3, np.float32)}, "do not fit: 'other'"),
        ({"labels": np.zeros(50, np.int64)}, "labels must be -1 to -1, numbers of classes, got 0"),
        ({"labels": np.zeros(50, np.int32)}, "labels must be int64, got int32"),
        ({"labels": np.zeros((50, 1), np.int64)}, "labels must have shape"),
        (
            {"vectors": np.zeros((50, 6), np.float32)},
            r"vectors must be float16 \[50, D\], got float",
        ),
        ({"vectors": np.zeros((49, 6), np.float16)}, r"vectors must be float16 \[50, D\], got"),
        ({"vectors": np.full((50, 6), np.inf, np.float16)}, "at most 65,504, got others in row 0"),
        ({"lists.other": np.zeros(3)}, "do not fit: .*unexpected keyword argument 'other'"),
        (
            {**LISTS, "lists.centroids": np.zeros((4, 6))},
            "centroids of lists must be finite float32",
        ),
        (
            {**LISTS, "lists.starts": np.array([0, 9, 9, 30])},
            r"starts of lists must be int64 \(5,\)",
        ),
        ({**LISTS, "lists.starts": np.array([0, 9, 8, 30, 50])}, "and rise from 0 to 50"),
        ({**LISTS, "lists.starts": np.array([0, 9, 9, 30, 49])}, "and rise from 0 to 50"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_whatever_their_digests(saved, change, message):
    _, _, _, folder = saved
    manifest = json.loads((folder / "codes.json").read_text())
    tensors = {**load_file(folder / "codes-1.safetensors"), **change}
    tensors = {name: x for name, x in tensors.items() if x is not None}
    save_file(tensors, folder / "codes-1.safetensors")
    manifest["digests"] = {name: digest(x) for name, x in tensors.items()}
    (folder / "codes.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        index.load(folder)


BOOKS = jnp.zeros((3, 16, 2))


@pytest.mark.parametrize(
    ("codec", "change", "message"),
    [
        (ProductCodec(BOOKS), {"metric": "foo"}, "metric must be one of"),
        (ProductCodec(BOOKS), {"codebooks": BOOKS[:, :15]}, "power of two"),
        (ProductCodec(BOOKS, jnp.eye(6)), {"rotation": jnp.eye(5)}, "rotation must have shape"),
        (BinaryCodec(4, jnp.zeros(4)), {"offset": jnp.zeros(5)}, "offset must have shape"),
        (BinaryCodec(4), {"projection": jnp.zeros((9, 5))}, "projection must have shape"),
        (ResidualCodec(BOOKS), {"metric": "foo"}, "metric must be one of"),
        (ResidualCodec(BOOKS), {"codebooks": BOOKS[:, :15]}, "power of two"),
        (ResidualCodec(BOOKS), {"beam_width": 0}, "beam_width must be at least 1, got 0"),
        (FloatCodec(4), {"metric": "foo"}, "metric must be one of"),
        (ClassCodec(2), {"num_classes": 1}, "num_classes must be 2 or more, got 1"),
    ],
)
def test_codecs_check_that_their_fields_fit(codec, change, message):
    codec.check()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(codec, **change).check()


def test_a_missing_file_is_named(saved):
    _, _, _, folder = saved
    (folder / "codes-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no codes-1\.safetensors"):
        index.load(folder)


def test_codes_that_do_not_fit_are_refused(saved, rng, tmp_path):
    codec, codes, ids, _ = saved
    with pytest.raises(ValueError, match=r"codes must be uint8 \[N, 2\], got uint8 \(50, 1\)"):
        index.save(tmp_path, codec, codes[:, :1])
    with pytest.raises(ValueError, match=r"codes must be uint8 \[N, 2\], got int64"):
        index.save(tmp_path, codec, codes.astype(np.int64))
    with pytest.raises(ValueError, match=r"ids must have shape \(50,\), got \(49,\)"):
        index.save(tmp_path, codec, codes, ids=ids[:-1])


ONE = np.zeros((1, 2), np.uint8)
FLOATS = np.array([[1.0, 2.0], [3.0, np.nan], [np.inf, 1.0]], np.float32).view(np.uint8)


@pytest.mark.parametrize(
    ("codec", "codes", "message"),
    [
        (ProductCodec(BOOKS), np.array([[0, 15], [9, 16]], np.uint8), "zeros behind their 12 bits"),
        (ProductCodec(BOOKS.at[0, 1, 1].set(jnp.nan)), ONE, "codebooks must be of finite numbers"),
        (ProductCodec(BOOKS + jnp.inf), ONE, "codebooks must be of finite numbers"),
        (ProductCodec(BOOKS.astype(int)), ONE, "codebooks must be of real numbers, got int32"),
        (ProductCodec(BOOKS.astype(jnp.bfloat16)), ONE, "real numbers, got bfloat16; float16, 32"),
        (ProductCodec(np.full((3, 16, 2), 1e99)), ONE, "overflow"),
        (ProductCodec(BOOKS[:, :15]), ONE, "num_codewords must be a power of two"),
        (ProductCodec(BOOKS[0, 0]), ONE, "codec, codes and ids do not fit: "),
        (ProductCodec(BOOKS, metric="foo"), ONE, "metric must be one of"),
        (ProductCodec(BOOKS, jnp.eye(5)), ONE, "rotation must have shape"),
        (ResidualCodec(BOOKS, beam_width=2.0), ONE, "beam_width must not be 2.0"),
        (ResidualCodec(BOOKS, beam_width=0), ONE, "beam_width must be at least 1"),
        (BinaryCodec(9, jnp.full(9, jnp.nan)), ONE, "offset must be of finite numbers"),
        (BinaryCodec(12), np.array([[0, 16]], np.uint8), "zeros behind their 12 bits"),
        (ClassCodec(300), np.array([[43, 1], [44, 1], [255, 1]], np.uint8),
         r"classes 0 to 299, got others in row 1 \(2 of 3 rows\)"),
        (FloatCodec(2), FLOATS, r"finite numbers, got others in row 1 \(2 of 3 rows\)"),
        (BinaryCodec(9), np.uint8(3), r"codes must be uint8 \[N, 2\], got uint8 \(1,\)"),
        (BinaryCodec(9), np.zeros((1, 2, 1), np.uint8), r"got uint8 \(1, 2, 1\)"),
    ],
)  # fmt: skip
def test_save_refuses_what_load_would_refuse(codec, codes, message, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message) as caught:
        index.save(tmp_path / "new", codec, codes)
    assert "nothing was saved" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
    # Written all the same, it would not be read.
    monkeypatch.setattr("quantjax.index.columns.check", lambda *arguments: None)
    monkeypatch.setattr("quantjax.index.codecs.read", lambda *arguments: None)
    try:
        index.save(tmp_path, codec, codes)
    except (InputError, IndexError):
        return  # what has no number of bits, or of items, has no manifest either
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"do not fit|no readable codes"):
        index.load(tmp_path)


def test_settings_and_arrays_of_numpys_own_types_come_back(tmp_path):
    books = np.arange(96, dtype=">f4").reshape(3, 16, 2)
    index.save(tmp_path, ResidualCodec(books, beam_width=np.int64(3)), ONE)
    codec = index.load(tmp_path).codec
    assert codec.beam_width == 3
    np.testing.assert_array_equal(codec.codebooks, books)


def full_index(rng, folder):
    """An index with all that an index may hold, in a folder; returns its columns."""
    codes = rng.integers(0, 256, (50, 2), dtype=np.uint8)
    codes[:, 1] &= 15
    names = [f"c{row % 3}/{row}.jpg" for row in range(50)]
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    labels = np.arange(50) % 3 - 1
    lists = index.InvertedLists(
        rng.normal(size=(4, 6)).astype(np.float32), np.array([0, 9, 9, 30, 50])
    )
    index.save(
        folder, product_codec(rng), codes, ids=names, vectors=vectors, labels=labels,
        classes=["a", "b"], root="/photos", lists=lists,
    )  # fmt: skip
    return codes, names, vectors, labels, lists


def test_vectors_labels_classes_root_and_lists_come_back(rng, tmp_path):
    codes, names, vectors, labels, lists = full_index(rng, tmp_path)
    found = index.load(tmp_path)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.vectors, vectors.astype(np.float16))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.ids.tolist() == names
    assert (found.manifest["root"], found.manifest["classes"]) == ("/photos", ["a", "b"])
    np.testing.assert_array_equal(found.lists.centroids, lists.centroids)
    np.testing.assert_array_equal(found.lists.starts, lists.starts)


def test_codes_and_vectors_are_read_only_maps_of_the_file(rng, tmp_path):
    full_index(rng, tmp_path)
    found = index.load(tmp_path)
    for x in (found.codes, found.vectors):
        base = x
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not x.flags.writeable


def test_any_reader_of_safetensors_reads_an_index(rng, tmp_path):
    codes, _, vectors, _, _ = full_index(rng, tmp_path)
    found = load_file(tmp_path / "codes-1.safetensors")
    np.testing.assert_array_equal(found["codes"], codes)
    np.testing.assert_array_equal(found["vectors"], vectors.astype(np.float16))


def test_equal_contents_make_equal_files(rng, tmp_path):
    for name in ("a", "b"):
        full_index(np.random.default_rng(0), tmp_path / name)
    for name in ("codes.json", "codes-1.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": [3, 1, 3]}, "ids must differ, got 3 twice; nothing was saved"),
        ({"ids": ["a", "b", "a"]}, "ids must differ, got 'a' twice; nothing was saved"),
        ({"ids": ["a"] * 3}, "ids must differ, got 'a' twice"),
        ({"vectors": np.zeros((3, 2), int)}, "vectors must be of real numbers, got int64"),
        ({"vectors": np.full((3, 2), 1e5)}, "vectors must be finite and at most 65,504"),
        ({"vectors": np.full((3, 2), np.nan)}, "vectors must be finite"),
        ({"labels": [0, 0, 1], "classes": ["a"]}, "labels must be -1 to 0, .* got 0 to 1"),
        ({"labels": [0.0, 0.0, 0.0], "classes": ["a"]}, "labels must be class numbers, got float"),
    ],
)
def test_values_that_do_not_fit_are_refused_before_a_file_is_written(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        index.save(tmp_path / "new", BinaryCodec(8), np.zeros((3, 1), np.uint8), **given)
    assert not (tmp_path / "new").exists()


def test_files_are_readable_as_the_umask_says(rng, tmp_path):
    before = os.umask(0o027)
    try:
        full_index(rng, tmp_path / "index")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "index").glob("codes*")}
    assert modes == {0o640}


def test_a_second_save_replaces_the_first_and_keeps_its_maps_readable(saved):
    codec, codes, _, folder = saved
    old = index.load(folder)
    index.save(folder, codec, codes[:7])
    assert sorted(path.name for path in folder.glob("codes*")) == [
        "codes-2.safetensors", "codes.json",
    ]  # fmt: skip
    np.testing.assert_array_equal(old.codes, codes)
    np.testing.assert_array_equal(index.load(folder).codes, codes[:7])


def test_an_index_of_version_1_is_replaced_whole(saved, tmp_path):
    codec, codes, _, _ = saved
    shutil.copytree(ROOT / "tests" / "quantizers" / "golden" / "product", tmp_path / "old")
    index.save(tmp_path / "old", codec, codes)
    assert {path.name for path in (tmp_path / "old").glob("codes*")} == {
        "codes-1.safetensors", "codes.json",
    }  # fmt: skip


def test_a_reader_follows_a_version_that_changes_under_it(saved, monkeypatch):
    """The writer switches versions after the reader has read the manifest."""
    codec, codes, _, folder = saved
    read, calls = versions.read_manifest, []

    def then_switch(path):
        manifest = read(path)
        calls.append(manifest["file"])
        if len(calls) == 1:
            with monkeypatch.context() as context:
                context.setattr(versions, "read_manifest", read)
                index.save(folder, codec, codes[:9])
        return manifest

    monkeypatch.setattr(versions, "read_manifest", then_switch)
    assert len(index.load(folder).codes) == 9
    assert calls == ["codes-1.safetensors", "codes-2.safetensors"]


def test_a_full_disk_leaves_the_old_version_whole(saved, rng):
    """A limit on the size of files stands for the disk."""
    codec, codes, _, folder = saved
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            index.save(folder, codec, np.zeros((5000, 2), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_one_line(caught.value)
    np.testing.assert_array_equal(index.load(folder).codes, codes)
    assert {path.name for path in folder.iterdir()} == {
        "codes-1.safetensors", "codes.json", ".lock",
    }  # fmt: skip


def test_two_writers_at_once_are_refused(saved):
    codec, codes, _, folder = saved
    with workdirs.held(folder), futures.ThreadPoolExecutor(1) as pool:
        for change in (
            lambda: index.save(folder, codec, codes),
            lambda: index.append(folder, codes, ids=range(2000, 2050)),
            lambda: index.delete(folder, [1]),
        ):
            with pytest.raises(InputError, match=f"is in use by process {os.getpid()} on"):
                pool.submit(change).result()
    assert index.load(folder).manifest["file"] == "codes-1.safetensors"
