"""An installed FAISS finds the rows that our own search finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import index
from quantjax.index import delegate
from quantjax.quantizers import BinaryCodec, ClassCodec, ProductCodec, ResidualCodec

pytest.importorskip("faiss")

N, D, Q = 5003, 16, 12


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def codecs():
    rng = np.random.default_rng(1)
    rotation = jnp.asarray(np.linalg.qr(rng.normal(size=(D, D)))[0], jnp.float32)
    for metric in ("l2", "ip"):
        yield f"product {metric}", ProductCodec(normal(rng, 4, 256, 4), rotation, metric)
    yield "many equal codes", ProductCodec(normal(rng, 2, 4, 8))
    yield "residual", ResidualCodec(normal(rng, 3, 16, D))
    yield "signs", BinaryCodec(D)  # hundreds of items at each distance
    yield "words", BinaryCodec(64, None, normal(rng, 64, D).T)


CODECS = dict(codecs())


def read_only(codec, x, **parts):
    codes = np.array(codec.encode(x))
    codes.flags.writeable = False
    return index.Index(codec, codes, np.arange(len(codes)), **parts)


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def flat(request):
    return read_only(request.param, normal(np.random.default_rng(2), N, D))


@pytest.fixture(scope="module")
def listed():
    """Inverted lists of clustered vectors far from the origin, some of them equal."""
    rng = np.random.default_rng(3)
    x = np.float32(rng.normal(size=(N, 4)) @ rng.normal(size=(4, D)) + 20)
    x[::3] = x[0]
    built = index.build_lists(jax.random.key(0), x, num_lists=24, num_codebooks=4)
    built.codes.flags.writeable = False
    return built, x[1 : Q + 1] + np.float32(0.1)


def assert_same(ours, theirs, complete):
    """Rows are equal, but for distances that differ by less than 1e-5 of the query's largest."""
    tolerance = 1e-5 * np.abs(complete.distances).max(1, keepdims=True)
    assert (np.abs(ours.distances - theirs.distances) <= tolerance).all()
    # The distance that our own search gives to each row that FAISS found.
    place = np.argsort(complete.rows, axis=1)
    found = np.take_along_axis(np.take_along_axis(complete.distances, place, 1), theirs.rows, 1)
    wrong = (ours.rows != theirs.rows) & (np.abs(found - ours.distances) > tolerance)
    assert np.count_nonzero(wrong) == 0
    assert all(len(set(row)) == len(row) for row in theirs.rows.tolist())
    step = np.diff(theirs.distances, axis=1)
    assert ((step > 0) | ((step == 0) & (np.diff(theirs.rows, axis=1) > 0))).all()


@pytest.mark.parametrize("top_k", [1, 10, 200])
@pytest.mark.by_default("product l2-*", "signs-1", "residual-10")
def test_faiss_finds_our_rows(flat, top_k):
    queries = np.asarray(normal(np.random.default_rng(4), Q, D))
    ours, theirs, complete = (
        index.search(flat, queries, top_k=k, engine=engine)
        for k, engine in ((top_k, "own"), (top_k, "faiss"), (N, "own"))
    )
    assert_same(ours, theirs, complete)
    if flat.codec.metric == "hamming":
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        np.testing.assert_array_equal(ours.distances, theirs.distances)


@pytest.mark.parametrize("num_probes", [1, 3, None])
@pytest.mark.parametrize("top_k", [1, 50, 3000])
@pytest.mark.by_default("3000-*", "50-1")
def test_faiss_finds_our_rows_in_lists(listed, top_k, num_probes):
    artefact, queries = listed
    options = {"top_k": top_k, "num_probes": num_probes}
    ours, theirs = (
        index.search(artefact, queries, engine=engine, **options) for engine in ("own", "faiss")
    )
    assert_same(ours, theirs, index.search(artefact, queries, top_k=N, engine="own"))


def test_faiss_searches_allowed_items_alone(listed, rng):
    artefact, queries = listed
    mask = rng.random(N) < 0.5
    options = {"top_k": 9, "num_probes": 4, "allowed": mask}
    ours, theirs = (
        index.search(artefact, queries, engine=engine, **options) for engine in ("own", "faiss")
    )
    assert mask[theirs.rows].all()
    np.testing.assert_allclose(ours.distances, theirs.distances, rtol=1e-4, atol=1e-4)


@pytest.fixture
def built(monkeypatch):
    """The codecs of all FAISS indexes that searches build."""
    codecs, put = [], delegate.put_delegate

    def counted(artefact):
        codecs.append(artefact.codec)
        return put(artefact)

    monkeypatch.setattr("quantjax.index.searching.put_delegate", counted)
    return codecs


def test_a_faiss_index_is_built_once_and_where_it_is_faster(built, listed):
    queries = np.asarray(normal(np.random.default_rng(4), Q, D))
    lists, asked = listed
    for artefact, due in (
        (lists, [lists.codec]),
        (lists._replace(codes=lists.codes.copy()), []),
        (read_only(CODECS["words"], queries), []),
        (read_only(CODECS["product l2"], queries), []),
    ):
        for _ in range(2):
            index.search(artefact, asked[:1], top_k=2)
        assert [*map(id, built)] == [*map(id, due)]
        built.clear()
    index.search(lists, asked[:1], top_k=1, allowed=lists.ids[:2])
    assert built == []


def test_without_faiss_our_own_search_answers(built, listed, monkeypatch):
    monkeypatch.setattr(delegate, "_is_installed", lambda: False)
    artefact, queries = listed
    found = index.search(artefact, queries, top_k=5)
    due = index.search(artefact, queries, top_k=5, engine="own")
    np.testing.assert_array_equal(found.rows, due.rows)
    assert built == []


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (ClassCodec(D), "faiss takes the codes of ProductCodec or ResidualCodec or BinaryCodec"),
        (ProductCodec(jnp.ones((4, 256, 4)), None, "cosine"), "faiss ranks such codes by l2 or ip"),
    ],
)
def test_codes_that_faiss_does_not_rank_are_refused(codec, message):
    artefact = read_only(codec, normal(np.random.default_rng(2), 30, D))
    with pytest.raises(ValueError, match=message):
        index.search(artefact, np.ones((1, D)), top_k=1, engine="faiss")
