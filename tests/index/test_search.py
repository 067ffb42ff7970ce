"""Search finds what brute force finds, in its order, however the work is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, index
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.run import parallel

N, D, Q = 5003, 16, 37


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def orthonormal(rng, rows, columns):
    return jnp.asarray(np.linalg.qr(rng.normal(size=(rows, columns)))[0], jnp.float32)


def networks(rng):
    shapes = (3, 16, D), (2, 2 * D, D), (2, D), (2, 1, D, 8), (2, 1, 8, D), (3, 16, D)
    return NeuralResidualCodec(*(0.3 * normal(rng, *s) for s in shapes), "ip", num_candidates=4)


def codecs():
    rng = np.random.default_rng(1)
    for metric in ("l2", "ip", "cosine"):
        yield f"product {metric}", ProductCodec(normal(rng, 4, 256, 4), None, metric)
        yield f"float {metric}", FloatCodec(D, metric)
        yield f"residual {metric}", ResidualCodec(normal(rng, 3, 16, D) + 2, metric)
    yield "networks", networks(rng)
    rotation = orthonormal(rng, D, D)
    yield "two codewords a byte", ProductCodec(normal(rng, 4, 16, 4), rotation)
    yield "half a byte left", ProductCodec(normal(rng, 1, 16, D))
    yield "three bits", ProductCodec(normal(rng, 4, 8, 4), rotation, "cosine")
    yield "signs", BinaryCodec(D)
    yield "words", BinaryCodec(64, None, normal(rng, 64, D).T)
    yield "itq", BinaryCodec(12, normal(rng, D), orthonormal(rng, D, 12))
    yield "classes", ClassCodec(D)


CODECS = dict(codecs())


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def artefact(request):
    rng = np.random.default_rng(2)
    codes = np.asarray(request.param.encode(normal(rng, N, D)))
    return index.Index(request.param, codes, rng.permutation(10 * N)[:N])


@pytest.fixture
def queries():
    return np.asarray(normal(np.random.default_rng(3), Q, D))


def brute_force(codec, queries, codes):
    """Distances in float64 from decoded items, by loops over nothing but queries."""
    if codec.metric == "class":
        shifted = queries - queries.max(1, keepdims=True)
        surprise = np.log(np.exp(shifted).sum(1, keepdims=True)) - shifted
        return surprise[:, np.asarray(codec.class_ids(codes))]
    if codec.metric == "hamming":
        signs = np.asarray(codec.encode(queries))
        bits = np.unpackbits(signs, axis=1)[:, None] != np.unpackbits(codes, axis=1)
        return bits.sum(-1).astype(float)
    items = np.asarray(codec.decode(codes), np.float64)
    queries = queries.astype(np.float64)
    if codec.metric == "l2":
        return np.stack([np.square(items - query).sum(1) for query in queries])
    products = np.stack([items @ query for query in queries])
    if codec.metric == "ip":
        return -products
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)
    return 1 - products / lengths


@pytest.mark.parametrize("top_k", [1, 10, 1000])
@pytest.mark.by_default("*-1000", "product l2-*", "signs-*")
def test_distances_and_rows_equal_brute_force(artefact, queries, top_k):
    codec, codes, *_ = artefact
    found = index.search(artefact, queries, top_k=top_k)
    truth = brute_force(codec, queries, codes)
    due = np.sort(truth, axis=1)[:, :top_k]
    tolerance = 1e-5 * (1 + np.abs(due))
    assert (np.abs(found.distances - due) <= tolerance).all()
    # Rows too: each is as near as it is said to be, none comes twice, and ties are by row.
    assert (np.abs(np.take_along_axis(truth, found.rows, 1) - due) <= tolerance).all()
    assert (np.diff(np.sort(found.rows, axis=1)) > 0).all()
    step = np.diff(found.distances, axis=1)
    assert ((step > 0) | ((step == 0) & (np.diff(found.rows, axis=1) > 0))).all()
    np.testing.assert_array_equal(found.ids, artefact.ids[found.rows])


@pytest.mark.by_default("product*", "signs*", "residual ip*")
def test_distances_are_those_of_the_codec(artefact, queries):
    found = index.search(artefact, queries, top_k=20)
    every = np.asarray(artefact.codec.distances(queries, artefact.codes))
    said = np.take_along_axis(every, found.rows, 1)
    np.testing.assert_allclose(found.distances, said, rtol=1e-5, atol=1e-5)


# Each device has programs of its own: eight of them take as long to compile as all other searches.
ON_EIGHT = {"product l2", "signs"}
ON_DEVICES = [
    pytest.param(codec, count, id=f"{name}-{count}", marks=marks)
    for name, codec in CODECS.items()
    for count, marks in ((2, []), (8, [pytest.mark.slow] * (name not in ON_EIGHT)))
]


@pytest.mark.parametrize(("artefact", "num_devices"), ON_DEVICES, indirect=["artefact"])
@pytest.mark.by_default(
    "product cosine-8", "product l2-2", "residual ip-2", "signs-2", "float l2-2"
)
def test_devices_do_not_change_a_bit(artefact, queries, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    for top_k in (10, 700):  # more than a device's share of 625 items
        one = index.search(artefact, queries, top_k=top_k)
        several = index.search(artefact, queries, top_k=top_k, mesh=mesh)
        for a, b in zip(one, several, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_number_of_queries_and_of_items_found_does_not_change_a_bit(artefact, queries):
    many = index.search(artefact, queries, top_k=1000)
    for rows in (slice(3, 4), slice(9, 11), slice(30, 37)):
        few = index.search(artefact, queries[rows], top_k=100)
        for a, b in zip(many, few, strict=True):
            np.testing.assert_array_equal(a[rows, :100], b)


@pytest.mark.by_default("product cosine", "residual ip", "signs", "itq")
def test_symmetric_search_quantizes_the_queries(artefact, queries):
    codec = artefact.codec
    found = index.search(artefact, queries, top_k=5, symmetric=True)
    quantized = np.asarray(codec.decode(codec.encode(queries)))
    due = index.search(artefact, quantized, top_k=5)
    np.testing.assert_allclose(found.distances, due.distances, rtol=1e-5, atol=1e-5)


def test_a_search_among_allowed_items_is_a_search_of_those_alone(artefact, queries, rng):
    mask = rng.random(N) < 0.3
    found = index.search(artefact, queries, top_k=50, allowed=mask)
    alone = artefact._replace(codes=artefact.codes[mask], ids=artefact.ids[mask])
    due = index.search(alone, queries, top_k=50)
    np.testing.assert_array_equal(found.ids, due.ids)
    np.testing.assert_array_equal(found.distances, due.distances)
    by_id = index.search(artefact, queries, top_k=50, allowed=artefact.ids[mask].tolist())
    np.testing.assert_array_equal(by_id.rows, found.rows)


@pytest.mark.parametrize("num_queries", [2, 9])
@pytest.mark.parametrize("bits", [8, 64, 320])
def test_thousands_of_ties_are_ordered_by_row(rng, bits, num_queries):
    codec = BinaryCodec(bits)
    codes = rng.integers(0, 3, (40_000, bits // 8), dtype=np.uint8)
    signs = np.asarray(normal(rng, num_queries, bits))
    every = np.asarray(codec.distances(signs, codes))
    found = index.search(index.Index(codec, codes, np.arange(40_000)), signs, top_k=100)
    np.testing.assert_array_equal(found.rows, np.argsort(every, axis=1, kind="stable")[:, :100])


def test_codes_that_are_all_equal_are_found_in_order(rng):
    codec = CODECS["product l2"]
    codes = np.zeros((30_000, 4), np.uint8)
    equal = index.Index(codec, codes, np.arange(30_000))
    found = index.search(equal, np.ones((2, D), np.float32), top_k=70)
    np.testing.assert_array_equal(found.rows, np.tile(np.arange(70), (2, 1)))


@pytest.mark.parametrize("offset", [0, 300])
def test_the_first_pass_loses_nothing_far_from_the_origin(rng, offset):
    # Tables of large numbers that differ little: the rounding of the first pass is then coarse.
    codec = ProductCodec(normal(rng, 4, 256, 4) + offset, None, "ip")
    codes = rng.integers(0, 256, (30_000, 4), dtype=np.uint8)
    queries = np.asarray(normal(rng, 5, D)) + offset
    found = index.search(index.Index(codec, codes, np.arange(30_000)), queries, top_k=10)
    every = np.asarray(codec.distances(queries, codes))
    np.testing.assert_array_equal(found.rows, np.argsort(every, axis=1, kind="stable")[:, :10])


def test_reranked_items_are_ordered_by_their_vectors(queries, rng):
    codec = CODECS["product l2"]
    vectors = rng.normal(size=(N, D)).astype(np.float16)
    codes = np.asarray(codec.encode(jnp.asarray(vectors, jnp.float32)))
    artefact = index.Index(codec, codes, np.arange(N), vectors=vectors)
    found = index.search(artefact, queries, top_k=10, rerank=N)
    truth = index.true_neighbours(vectors, queries, 10)
    np.testing.assert_array_equal(found.rows, truth)
    few = index.search(artefact, queries, top_k=10, rerank=50)
    candidates = index.search(artefact, queries, top_k=50).rows
    assert all(set(a) <= set(b) for a, b in zip(few.rows, candidates, strict=True))
    assert (np.diff(few.distances, axis=1) >= 0).all()


def test_read_only_codes_stay_on_the_device_and_others_are_read_anew(queries):
    codec = CODECS["product l2"]
    codes = np.zeros((100, 4), np.uint8)
    artefact = index.Index(codec, codes, np.arange(100))
    before = index.search(artefact, queries, top_k=1)
    codes[:] = 7
    after = index.search(artefact, queries, top_k=1)
    assert (before.distances != after.distances).all()
    codes.flags.writeable = False
    for _ in range(2):
        kept = index.search(artefact, queries, top_k=1)
        np.testing.assert_array_equal(kept.distances, after.distances)


def test_map_of_a_whole_ranking_is_the_evaluators(rng):
    codec = CODECS["product l2"]
    x = np.asarray(normal(rng, 300, D))
    codes = np.asarray(codec.encode(x))
    labels, asked = rng.integers(0, 4, 300), rng.integers(0, 4, 20)
    queries = np.asarray(normal(rng, 20, D))
    found = index.search(index.Index(codec, codes, labels), queries, top_k=300)
    hits = found.ids == asked[:, None]
    places = np.arange(1, 301)
    precision = [(np.cumsum(row)[row] / places[row]).mean() for row in hits]
    every = np.asarray(codec.distances(queries, codes))
    results = evaluate.evaluate_distances(every, asked, labels)
    assert np.mean(precision) == pytest.approx(results.numbers[0].value, abs=1e-5)


def small(**changes):
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 256, (20, 4), dtype=np.uint8)
    artefact = index.Index(CODECS["product l2"], codes, np.arange(20))
    return artefact._replace(**changes), np.array(normal(rng, 2, D))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 21}, "top_k must be from 1 to 20, the items to search, got 21"),
        ({"top_k": 0}, "top_k must be from 1 to 20, the items to search, got 0"),
        ({"top_k": 1, "allowed": []}, "allowed must leave items to search, got none of the 20"),
        ({"top_k": 3, "allowed": [4, 5]}, "top_k must be from 1 to 2, the items to search, got 3"),
        ({"top_k": 1, "allowed": np.ones(3, bool)}, r"allowed must have shape \(20,\), got \(3,\)"),
        ({"top_k": 1, "rerank": 5}, "rerank needs the items' vectors; save the index with vectors"),
        ({"top_k": 1, "num_probes": 2}, "num_probes must be 1 or more, for an index of inverted"),
        (
            {"top_k": 1, "engine": "faiss", "mesh": 1},
            "engine faiss takes no mesh; leave mesh out, or",
        ),
        ({"top_k": 1, "engine": "turbo"}, "engine must be auto, own or faiss, got 'turbo'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    artefact, queries = small()
    with pytest.raises(ValueError, match=message):
        index.search(artefact, queries, **options)


def test_queries_that_do_not_fit_are_refused():
    artefact, queries = small()
    with pytest.raises(ValueError, match=r"queries must have shape \[Q, 16\], got \(2, 9\)"):
        index.search(artefact, queries[:, :9], top_k=1)
    queries[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"queries must be numbers, got NaN in row 1"):
        index.search(artefact, queries, top_k=1)
    queries[1, 3] = 1e30
    with pytest.raises(ValueError, match="distances of query 1 are infinite: scale"):
        index.search(artefact, queries, top_k=1)
    with pytest.raises(ValueError, match="rerank must be at least top_k = 3, got 2"):
        index.search(small(vectors=np.zeros((20, D)))[0], queries, top_k=3, rerank=2)


@pytest.mark.parametrize("engine", ["auto", "own"])
def test_codes_behind_the_last_class_are_refused(engine):
    codes = np.array([[0], [2], [3]], np.uint8)
    artefact = index.Index(ClassCodec(3), codes, np.arange(3))
    with pytest.raises(ValueError, match=r"codes must be of classes 0 to 2, got others in row 2"):
        index.search(artefact, np.zeros((1, 3)), top_k=1, engine=engine)


def test_items_with_names_are_found_by_name(queries):
    names = np.array([f"{i}.jpg" for i in range(20)], object)
    artefact, queries = small(ids=names)
    found = index.search(artefact, queries, top_k=2, allowed=["3.jpg", "5.jpg"])
    assert {*found.ids.ravel()} == {"3.jpg", "5.jpg"}


def test_no_queries_find_nothing():
    artefact, queries = small()
    assert index.search(artefact, queries[:0], top_k=3).rows.shape == (0, 3)
