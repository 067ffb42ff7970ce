"""Codes and distances from elsewhere get the results of a codec, and a set can search itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, metrics
from quantjax.metrics import measures
from quantjax.quantizers import BinaryCodec, ProductCodec, binary

BITS, Q, N = 12, 5, 40
MEASURES = (measures.average_precision(), measures.precision(top_k=3))


@pytest.fixture
def signs(rng):
    return tuple(np.where(rng.normal(size=(n, BITS)) > 0, 1, -1) for n in (Q, N))


@pytest.fixture
def labels(rng):
    return rng.integers(0, 3, Q), rng.integers(0, 3, N)


def by_definition(distances, labels, *, without_self=False):
    """Average precision of every query, float64, from the matrix of distances."""
    relevant = labels[0][:, None] == labels[1]
    if without_self:
        keep = ~np.eye(len(distances), dtype=bool)
        distances, relevant = (
            side[keep].reshape(len(distances), -1) for side in (distances, relevant)
        )
    return np.asarray(metrics.average_precision(distances, relevant))


FORMS = {
    "signs": lambda x: x,
    "float signs": lambda x: x.astype(np.float32),
    "bools": lambda x: x > 0,
    "zeros and ones": lambda x: (x > 0).astype(np.int64),
    "uint8 bits": lambda x: (x > 0).astype(np.uint8),
    "packed": lambda x: np.asarray(binary.pack(jnp.asarray(x))),
}


@pytest.mark.parametrize("form", FORMS)
def test_binary_codes_of_every_form_give_the_results_of_hamming_distances(form, signs, labels):
    sides = [FORMS[form](side) for side in signs]
    results = evaluate.evaluate_codes(*sides, *labels, num_bits=BITS, measures=MEASURES)
    due = by_definition((signs[0][:, None] != signs[1]).sum(axis=-1), labels)
    np.testing.assert_allclose(results.per_query[results.metric], due, atol=1e-6)
    assert results.metric == "map@all|ties=expected|den=capped|zero=0|dist=hamming"
    assert (results.bits, results.num_bytes) == (BITS, 2)
    assert len(results.numbers) == 2
    assert results.num_database == N


def test_bits_are_told_from_bytes_or_the_length_is_asked_for(signs, labels):
    signed = evaluate.evaluate_codes(*signs, *labels)
    assert signed.bits == BITS
    packed = [FORMS["packed"](side) for side in signs]
    assert evaluate.evaluate_codes(*packed, *labels).bits == 16  # zeros fill the last byte
    with pytest.raises(ValueError, match="may be 12 bits or 96 packed bits; pass num_bits"):
        evaluate.evaluate_codes(*(FORMS["uint8 bits"](side) for side in signs), *labels)
    with pytest.raises(ValueError, match="codes of 10 bits have 10 columns, or 2 bytes, got 12"):
        evaluate.evaluate_codes(*signs, *labels, num_bits=10)
    with pytest.raises(ValueError, match="query_codes must be uint8 where they are packed"):
        evaluate.evaluate_codes(*(side[:, :2] for side in signs), *labels, num_bits=BITS)
    with pytest.raises(ValueError, match="as many columns, got"):
        evaluate.evaluate_codes(signs[0], signs[1][:, :4], *labels)


def test_codes_of_a_product_quantizer_are_measured_by_its_codec(rng, labels):
    codec = ProductCodec(jnp.asarray(rng.normal(size=(2, 256, 3)), jnp.float32))
    sides = [rng.integers(0, 256, (n, 2)).astype(np.uint8) for n in (Q, N)]
    results = evaluate.evaluate_codes(*sides, *labels, codec=codec)
    x, y = (np.asarray(codec.decode(side), np.float64) for side in sides)
    due = by_definition(((x[:, None] - y) ** 2).sum(axis=-1), labels)
    np.testing.assert_allclose(results.per_query[results.metric], due, atol=1e-6)
    assert results.distance == "sqd"
    with pytest.raises(ValueError, match="num_bits must be 16, the codec's, or None, got 8"):
        evaluate.evaluate_codes(*sides, *labels, codec=codec, num_bits=8)


def test_distances_rank_in_their_own_type(rng, labels):
    distances = 1e6 + 1e-9 * rng.permutation(Q * N).reshape(Q, N)  # equal in float32
    results = evaluate.evaluate_distances(distances, *labels, measures=MEASURES)
    assert len(set(results.per_query[results.metric])) > 1
    number = results.numbers[0]
    assert [number.worst, number.best] == pytest.approx([number.value] * 2)  # no ties
    due = by_definition(np.argsort(np.argsort(distances, axis=1), axis=1), labels)
    np.testing.assert_allclose(results.per_query[number.metric], due, atol=1e-6)
    assert number.metric.endswith("dist=own")
    assert results.bits is None
    assert "bits" not in str(results)


def test_distances_and_codes_of_one_search_are_compared(signs, labels):
    codes = evaluate.evaluate_codes(*signs, *labels)
    distances = (signs[0][:, None] != signs[1]).sum(axis=-1)
    own = evaluate.evaluate_distances(distances, *labels, distance="hamming")
    comparison = evaluate.compare(codes, own)
    assert comparison.difference == pytest.approx(0, abs=1e-12)
    for a, b in zip(codes.numbers, own.numbers, strict=True):
        assert a[:6] + a[6:7] == (a.metric, *(pytest.approx(value) for value in b[1:7]))


@pytest.mark.parametrize("kind", ["hamming", "ranked", "distances"])
def test_a_set_that_searches_itself_leaves_each_query_out(kind, rng, signs, labels):
    x, ids = signs[1], labels[1]
    distances = (x[:, None] != x).sum(axis=-1)
    if kind == "hamming":
        results = evaluate.evaluate_codes(x, x, ids, ids, leave_self_out=True)
    elif kind == "distances":
        results = evaluate.evaluate_distances(distances, ids, ids, leave_self_out=True)
    else:
        books = jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
        codec = ProductCodec(books)
        x = rng.normal(size=(N, 4)).astype(np.float32)
        codes = evaluate.encode(codec, x)  # of 16 codes, most are shared by several items
        distances = np.asarray(codec.distances(jnp.asarray(x), jnp.asarray(codes)))
        results = evaluate.evaluate(
            codec, x, codes, ids, ids, name="x", distance="aqd", leave_self_out=True
        )
    due = by_definition(distances, (ids, ids), without_self=True)
    np.testing.assert_allclose(results.per_query[results.metric], due, atol=1e-6)
    assert results.metric.endswith("|self=out")
    assert results.numbers[0].worst <= results.value <= results.numbers[0].best
    chance = results.numbers[0].chance
    assert results.numbers[0].shuffled == pytest.approx(chance, abs=0.15)


def test_a_set_that_searches_itself_is_one_set(signs, labels):
    with pytest.raises(ValueError, match="queries and items differ in labels or number, 5 and 40"):
        evaluate.evaluate_codes(*signs, *labels, leave_self_out=True)
    one = signs[0][:1], signs[0][:1], labels[0][:1], labels[0][:1]
    with pytest.raises(ValueError, match="nothing to search in a set of one item"):
        evaluate.evaluate_codes(*one, leave_self_out=True)


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.zeros((Q, N, 1)), r"real numbers \[Q, N\]"),
        (np.zeros((Q, 0)), "one query and item at least"),
        (np.full((Q, N), np.nan), "distances must be numbers, got NaN in row 0"),
        (np.zeros((N, Q)), f"of {Q} queries and {N} items"),
        (np.zeros((Q, N), complex), "complex128"),
    ],
)
def test_distances_that_are_none_are_refused(distances, message, labels):
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate_distances(distances, *labels)


def test_equal_codes_leave_one_item_out_alone():
    codec = BinaryCodec(2)
    x = np.array([[1.0, 1], [1, 1], [1, 1], [-1, -1]], np.float32)
    ids = np.array([0, 0, 1, 1])
    codes = evaluate.encode(codec, x)
    results = evaluate.evaluate(
        codec, x, codes, ids, ids, name="x", distance="hamming", leave_self_out=True
    )
    # Queries 0 and 1: a hit and a miss are tied first, (1 + 1/2) / 2; query 2: the hit is third;
    # query 3: one hit among three that are tied, (1 + 1/2 + 1/3) / 3.
    np.testing.assert_allclose(
        results.per_query[results.metric], [0.75, 0.75, 1 / 3, 11 / 18], atol=1e-12
    )


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_embeddings_are_measured_without_codes(metric, rng, labels):
    x, y = rng.normal(size=(Q, 6)), rng.normal(size=(N, 6))
    results = evaluate.evaluate_embeddings(x, y, *labels, metric=metric)
    gaps = {
        "l2": ((x[:, None] - y) ** 2).sum(axis=-1),
        "ip": -x @ y.T,
        "cosine": -x @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T,
    }
    due = by_definition(np.float32(gaps[metric]), labels)
    np.testing.assert_allclose(results.per_query[results.metric], due, atol=1e-6)
    assert results.distance == "float"
    own = x, x, labels[0], labels[0]
    assert evaluate.evaluate_embeddings(*own, leave_self_out=True).metric.endswith("|self=out")
    with pytest.raises(ValueError, match="database must be numbers, got NaN in row 3"):
        evaluate.evaluate_embeddings(x, np.where(np.arange(N)[:, None] == 3, np.nan, y), *labels)
