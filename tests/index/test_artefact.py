"""Codes on disk come back to the bit, and nothing else comes back at all."""

import dataclasses
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantjax import index
from quantjax.errors import InputError
from quantjax.index.artefact import _digest
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
)
from tests.models.weight_files import safetensors

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
    assert manifest["version"] == 1
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
    codec, _, _, manifest = index.load(tmp_path / "b")
    assert (manifest["codec"], manifest["metric"], codec.num_bits) == ("binary", "hamming", 4)
    np.testing.assert_array_equal(codec.offset, offset)
    np.testing.assert_array_equal(codec.projection, projection)
    books = jnp.asarray(rng.normal(size=(3, 16, 2)), jnp.float32)
    index.save(tmp_path / "r", ResidualCodec(books, "ip", beam_width=3), np.zeros((1, 2), np.uint8))
    codec, _, _, manifest = index.load(tmp_path / "r")
    assert (manifest["codec"], codec.metric, codec.beam_width) == ("residual", "ip", 3)
    np.testing.assert_array_equal(codec.codebooks, books)


def test_a_flipped_byte_is_refused_by_name(saved):
    _, _, _, folder = saved
    path = folder / "codes.safetensors"
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
        ("codes.safetensors", b"short", "no readable codes"),
        ("codes.json", b'{"format": "other"}', "must be quantjax-codes version 1, got other"),
        ("codes.json", b"[1]", "no readable codes"),
        ("codes.json", b"[" * 100_000, "no readable codes: maximum recursion depth"),
        ("codes.json", b'{"format": ["a"]}', "got list version None"),
        ("codes.json", b'{"format": "a\\nb"}', "got a b version None"),
        (
            "codes.safetensors",
            struct.pack("<Q", 2**40) + b"{}",
            "readable codes: .*header too large",
        ),
        ("codes.safetensors", safetensors({"codes": ("F8_E4M3", (1,), b"a")}), "no readable codes"),
        (
            "codes.safetensors",
            safetensors({"codes": ("F32", (0, 2**63), b"")}),
            "no readable codes",
        ),
        ("codes.safetensors", safetensors({"a\nb" * 99: ("U8", (1,), b"a")}), "a b.* not what the"),
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
    ],
)
def test_tensors_that_do_not_fit_are_refused_whatever_their_digests(saved, change, message):
    _, _, _, folder = saved
    manifest = json.loads((folder / "codes.json").read_text())
    tensors = {**load_file(folder / "codes.safetensors"), **change}
    tensors = {name: x for name, x in tensors.items() if x is not None}
    save_file(tensors, folder / "codes.safetensors")
    manifest["digests"] = {name: _digest(x) for name, x in tensors.items()}
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
    (folder / "codes.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no codes\.safetensors"):
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
    monkeypatch.setattr("quantjax.index.artefact._contents", lambda manifest, tensors: None)
    try:
        index.save(tmp_path, codec, codes)
    except InputError:
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
