"""An index changes as a whole: items join and leave, a new encoder replaces the old encoder."""

import json
import resource

import numpy as np
import pytest

from quantjax import index
from quantjax.errors import InputError
from quantjax.quantizers import BinaryCodec
from tests.index import encoders

NAMES = np.array([f"{number}.jpg" for number in range(9)], object)


def columns(rng, rows):
    codes = rng.integers(0, 256, (rows, 2), dtype=np.uint8)
    return {
        "codes": codes,
        "vectors": rng.normal(size=(rows, 4)).astype(np.float16),
        "labels": rng.integers(-1, 2, rows),
    }


def saved(folder, rng, ids):
    about = {"classes": ["a", "b"], "root": "/photos"}
    found = columns(rng, len(ids))
    codes = found.pop("codes")
    index.save(folder, BinaryCodec(16), codes, ids=ids, **found, **about)
    return {"codes": codes, **found}


@pytest.mark.parametrize("ids", [np.arange(9) * 7 - 5, NAMES], ids=["numbers", "names"])
def test_appended_items_follow_the_old_items(ids, rng, tmp_path):
    old, new = saved(tmp_path, rng, ids[:6]), columns(rng, 3)
    index.append(tmp_path, new["codes"], ids=ids[6:], vectors=new["vectors"], labels=new["labels"])
    found = index.load(tmp_path)
    assert found.ids.tolist() == ids.tolist()
    for name in old:
        np.testing.assert_array_equal(getattr(found, name), np.concatenate([old[name], new[name]]))
    assert (found.manifest["root"], found.manifest["classes"]) == ("/photos", ["a", "b"])
    assert found.manifest["file"] == "codes-2.safetensors"


@pytest.mark.parametrize("ids", [np.arange(9) * 7 - 5, NAMES], ids=["numbers", "names"])
def test_deleted_items_leave_the_others_in_order(ids, rng, tmp_path):
    old = saved(tmp_path, rng, ids)
    index.delete(tmp_path, [ids[4], ids[0], ids[8]])
    found, rest = index.load(tmp_path), [1, 2, 3, 5, 6, 7]
    assert found.ids.tolist() == ids[rest].tolist()
    for name in old:
        np.testing.assert_array_equal(getattr(found, name), old[name][rest])


def test_an_index_that_lost_all_items_takes_items_again(rng, tmp_path):
    saved(tmp_path, rng, NAMES[:2])
    index.delete(tmp_path, NAMES[:2])
    assert index.load(tmp_path).codes.shape == (0, 2)
    new = columns(rng, 1)
    index.append(tmp_path, new["codes"], ids=["a"], vectors=new["vectors"], labels=new["labels"])
    assert index.load(tmp_path).ids.tolist() == ["a"]


CODES = np.zeros((2, 2), np.uint8)
BOTH = {"vectors": np.zeros((2, 4)), "labels": [0, 1]}


@pytest.mark.parametrize(
    ("codes", "given", "message"),
    [
        (CODES, {"ids": ["x", "x"]}, "ids must differ, got 'x' twice"),
        (CODES, {"ids": ["x", "3.jpg"]}, "ids must differ, got '3.jpg' twice"),
        (CODES, {"ids": ["4.jpg", "3.jpg"]}, r"ids must differ, got '3.jpg' twice \(2 in all\)"),
        (CODES, {"ids": [1, 2]}, "all items must have codes, .*strings as ids.*got some with"),
        (CODES[:, :1], {"ids": ["x", "y"]}, r"codes must be uint8 \[N, 2\], got uint8 \(2, 1\)"),
        (CODES, {"ids": ["x"]}, r"ids must have shape \(2,\), got \(1,\)"),
        (CODES, {"ids": ["x", "y"], "vectors": None}, "all items must have .*vectors.*, got some"),
        (CODES, {"ids": ["x", "y"], "vectors": np.zeros((2, 3))}, "vectors must be 4 wide, got 3"),
        (CODES, {"ids": ["x", "y"], "labels": [0, 2]}, "labels must be -1 to 1"),
    ],
)
def test_items_that_do_not_fit_an_index_are_refused(codes, given, message, rng, tmp_path):
    saved(tmp_path, rng, NAMES)
    with pytest.raises(InputError, match=message) as caught:
        index.append(tmp_path, codes, **{**BOTH, **given})
    assert str(caught.value).startswith(f"cannot append to {tmp_path}: ")
    assert str(caught.value).endswith("; nothing was changed")
    assert index.load(tmp_path).manifest["file"] == "codes-1.safetensors"


def test_ids_that_an_index_does_not_have_are_refused(rng, tmp_path):
    saved(tmp_path, rng, NAMES)
    with pytest.raises(InputError, match="has no item 'x'; nothing was removed"):
        index.delete(tmp_path, ["x", "1.jpg"])
    assert len(index.load(tmp_path).ids) == 9


def test_a_folder_without_an_index_is_named_and_not_made(tmp_path):
    for change in (
        lambda: index.append(tmp_path / "no", CODES, ids=[1, 2]),
        lambda: index.delete(tmp_path / "no", [1]),
    ):
        with pytest.raises(FileNotFoundError, match=r"no has no codes\.json"):
            change()
    assert not (tmp_path / "no").exists()


def test_a_full_disk_leaves_the_index_as_it_was(rng, tmp_path):
    """A limit on the size of files stands for the disk."""
    old = saved(tmp_path, rng, NAMES)
    more, before = np.zeros((5000, 2), np.uint8), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            index.append(
                tmp_path, more, ids=list(map(str, range(5000))),
                vectors=np.zeros((5000, 4)), labels=np.zeros(5000, int),
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    np.testing.assert_array_equal(index.load(tmp_path).codes, old["codes"])
    assert not list(tmp_path.glob(".*tmp")) + list(tmp_path.glob("codes-2*"))


def test_an_index_with_inverted_lists_is_not_changed(rng, tmp_path):
    lists = index.InvertedLists(np.zeros((1, 16), np.float32), np.array([0, 2]))
    index.save(tmp_path, BinaryCodec(16), CODES, lists=lists)
    with pytest.raises(InputError, match="has inverted lists, which no item can join or leave"):
        index.append(tmp_path, CODES, ids=[7, 8])


def digest_in(folder):
    return json.loads((folder / "encoder.json").read_text())["digest"]


def test_an_encoder_is_copied_into_the_index(tmp_path):
    source = encoders.of_vectors(tmp_path / "run" / "encoder")
    index.save(tmp_path / "index", encoders.CODEC, CODES, encoder=tmp_path / "run")
    digest = digest_in(source)
    assert digest_in(tmp_path / "index" / "encoder") == digest
    assert index.load_encoder(tmp_path / "index").digest == digest
    assert index.load(tmp_path / "index").manifest["encoder"] == digest
    index.append(tmp_path / "index", CODES, ids=[7, 8], encoder=digest)
    assert index.load(tmp_path / "index").manifest["encoder"] == digest
    with pytest.raises(InputError, match=f"has codes of encoder {digest[:12]}, got those of ab"):
        index.append(tmp_path / "index", CODES, ids=[9, 10], encoder="ab")


def test_an_encoder_of_other_codes_is_refused(tmp_path):
    other = encoders.of_vectors(tmp_path / "other", codec=BinaryCodec(15))
    with pytest.raises(InputError, match="other has another codec than the codes; take the"):
        index.save(tmp_path / "index", BinaryCodec(16), CODES, encoder=other)
    assert not (tmp_path / "index").exists()
    index.save(tmp_path / "index", BinaryCodec(16), CODES)
    with pytest.raises(InputError, match="other has another codec than the codes"):
        index.replace_encoder(tmp_path / "index", other)
    assert not (tmp_path / "index" / "encoder").exists()


def test_a_new_encoder_of_the_same_codec_replaces_the_old(tmp_path):
    old, new = (encoders.of_vectors(tmp_path / name, about={"n": name}) for name in ("old", "new"))
    index.save(tmp_path / "index", encoders.CODEC, CODES, encoder=old)
    index.replace_encoder(tmp_path / "index", new)
    assert index.load(tmp_path / "index").manifest["encoder"] == digest_in(new)
    assert digest_in(tmp_path / "index" / "encoder") == digest_in(new) != digest_in(old)
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "codes-1.safetensors", "codes.json", "encoder", ".lock",
    }  # fmt: skip
