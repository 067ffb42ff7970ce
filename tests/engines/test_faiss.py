"""FAISS holds our codes byte for byte and gives our answers, also from its own file."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index import InvertedLists
from quantjax.index.engines import faiss as engine
from quantjax.quantizers import ClassCodec, ProductCodec
from tests.engines import databases
from tests.engines.databases import D, codec_of, database, queries

faiss = pytest.importorskip("faiss")

CASES = [
    (kind, metric, "numbers")
    for kind in ("product", "rotated", "residual", "float")
    for metric in ("l2", "ip")
] + [
    (kind, "l2", ids)
    for kind, ids in (
        ("binary", "numbers"),
        ("signs", "rows"),
        ("binary", "names"),
        ("rotated", "rows"),
        ("rotated", "names"),
    )
]


def read(path, codec):
    kind = "_binary" if codec.metric == "hamming" else ""
    return getattr(faiss, f"read_index{kind}")(str(path))


@pytest.mark.parametrize(("kind", "metric", "ids"), CASES)
@pytest.mark.by_default("product-l2-numbers", "rotated-*", "binary-*")
def test_a_written_file_gives_our_answers(kind, metric, ids, rng, tmp_path):
    index = database(codec_of(kind, rng, metric=metric), rng, ids=ids)
    exported = engine.export(index, tmp_path / "codes.faiss")
    assert exported.recall == 1
    assert all(path.is_file() for path in exported.files)
    x = queries(rng)
    distances, found = engine.search(read(exported.files[0], index.codec), index.codec, x, 7)
    if ids == "names":
        names = (tmp_path / "codes.faiss.ids.txt").read_text().splitlines()
        assert names == index.ids.tolist()
        found = np.array(names, object)[found]
    databases.check_answers(index, x, distances, found)


@pytest.mark.parametrize("num_codewords", [2, 8, 16, 256])
@pytest.mark.parametrize("kind", ["product", "residual"])
def test_codes_are_stored_byte_for_byte(kind, num_codewords, rng):
    index = database(codec_of(kind, rng, num_codewords=num_codewords), rng, ids="rows")
    found = engine.to_faiss(index)
    stored = faiss.vector_to_array(found.codes)
    np.testing.assert_array_equal(stored.reshape(index.codes.shape), index.codes)


@pytest.mark.parametrize("kind", ["product", "rotated", "residual"])
def test_faiss_encodes_as_the_codec_does(kind, rng):
    index = database(codec_of(kind, rng), rng, ids="rows")
    x = queries(rng, 40)
    np.testing.assert_array_equal(
        engine.to_faiss(index).sa_encode(x), index.codec.encode(jnp.asarray(x))
    )


@pytest.mark.parametrize("num_codewords", [16, 256])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_networks_decode_encode_and_measure_in_faiss_as_here(metric, num_codewords, rng):
    codec = codec_of("networks", rng, metric=metric, num_codewords=num_codewords)
    index = database(codec, rng, ids="rows")
    theirs, x = engine.to_faiss(index), queries(rng, 40)
    assert isinstance(theirs, faiss.IndexQINCo)
    np.testing.assert_allclose(
        theirs.sa_decode(index.codes), codec.decode(index.codes), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(theirs.sa_encode(x), codec.encode(jnp.asarray(x)))
    databases.check_answers(index, x, *engine.search(theirs, codec, x, 7))


def test_networks_with_ids_give_our_answers(rng):
    index = database(codec_of("networks", rng), rng)
    x = queries(rng)
    databases.check_answers(index, x, *engine.search(engine.to_faiss(index), index.codec, x, 7))


def test_networks_go_into_no_file_of_faiss(rng, tmp_path):
    index = database(codec_of("networks", rng), rng, ids="rows")
    message = "faiss writes no files of an IndexQINCo; call index.to_faiss where you search, or "
    with pytest.raises(ValueError, match=f"^{message}export to npz$"):
        engine.export(index, tmp_path / "codes.faiss")
    assert list(tmp_path.iterdir()) == []
    # The reason, should a later version of FAISS know more.
    with pytest.raises(RuntimeError, match="don't know how to serialize this type of index"):
        faiss.write_index(engine.to_faiss(index), str(tmp_path / "codes.faiss"))


def listed(rng, kind, metric, ids="numbers"):
    """An index of inverted lists, one of them empty, and its reconstructions."""
    codec = codec_of(kind, rng, metric=metric)
    index = database(codec, rng, ids=ids)
    centroids = np.float32(3 * rng.normal(size=(4, D)))
    starts = np.array([0, 90, 90, 200, len(index.codes)])
    residuals = np.asarray(codec.decode(jnp.asarray(index.codes)))
    of_row = np.repeat(centroids, np.diff(starts), axis=0)
    return index._replace(lists=InvertedLists(centroids, starts)), residuals + of_row


@pytest.mark.parametrize("ids", ["numbers", "names"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("kind", ["product", "rotated"])
def test_inverted_lists_give_our_answers(kind, metric, ids, rng, tmp_path):
    index, x = listed(rng, kind, metric, ids)
    exported = engine.export(index, tmp_path / "codes.faiss")
    asked = queries(rng)
    found = engine.search(read(exported.files[0], index.codec), index.codec, asked, 7)
    distances, answers = found if ids == "numbers" else (found[0], index.ids[found[1]])
    databases.check_answers(index, asked, distances, answers, reconstructions=x)


def test_fast_scan_finds_nearly_all(rng, tmp_path):
    index = database(codec_of("product", rng), rng)
    exported = engine.export(index, tmp_path / "codes.faiss", fast_scan=True)
    assert 0.85 < exported.recall <= 1
    found = faiss.read_index(str(exported.files[0]))
    assert isinstance(faiss.downcast_index(found.index), faiss.IndexPQFastScan)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (ClassCodec(3), "faiss takes the codes of ProductCodec or ResidualCodec or BinaryCodec"),
        (
            ProductCodec(jnp.ones((3, 16, 4)), metric="cosine"),
            "faiss ranks such codes by l2 or ip or hamming, got metric 'cosine'; fit the codec "
            "with another metric, or export to npz",
        ),
    ],
)
def test_codes_that_faiss_ranks_otherwise_are_refused(codec, message, rng):
    index = database(codec_of("product", rng), rng)._replace(codec=codec)
    with pytest.raises(ValueError, match=message):
        engine.to_faiss(index)


def test_fast_scan_of_other_codes_is_refused(rng):
    index = database(codec_of("product", rng, num_codewords=8), rng)
    with pytest.raises(ValueError, match="fast_scan needs product codes of 16 codewords, got <Pro"):
        engine.to_faiss(index, fast_scan=True)


def test_an_empty_index_is_refused(rng):
    index = database(codec_of("product", rng), rng)
    with pytest.raises(ValueError, match="the index has no items"):
        engine.to_faiss(index._replace(codes=index.codes[:0], ids=index.ids[:0]))


@pytest.mark.parametrize("name", ["two\nlines", "end\n", "lone \udcff"])
def test_names_that_no_line_can_hold_are_refused(name, rng, tmp_path):
    index = database(codec_of("product", rng), rng, ids="names")
    index.ids[5] = name
    with pytest.raises(ValueError, match=r"ids must be lines of UTF-8 .* in row 5; rename"):
        engine.export(index, tmp_path / "codes.faiss")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda found: (found[0] + 1, found[1]),
            "items another distance than the codec, other by 1;",
        ),
        (lambda found: (found[0], found[1] * 0 - 1), "other items than the codec"),
    ],
)
def test_an_engine_with_other_answers_writes_nothing(spoil, message, rng, tmp_path, monkeypatch):
    index, search = database(codec_of("product", rng), rng), engine.search
    monkeypatch.setattr(engine, "search", lambda *arguments: spoil(search(*arguments)))
    with pytest.raises(ValueError, match=message):
        engine.export(index, tmp_path / "codes.faiss")
    assert list(tmp_path.iterdir()) == []
