"""Numbers from codes: against plain loops, and unmoved by storage order, tiles and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, metrics
from quantjax.quantizers import FloatCodec, ProductCodec

Q, N, D, L = 70, 300, 6, 3  # more queries than a tile holds


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    codec = ProductCodec(jnp.asarray(rng.normal(size=(2, 8, 3)), jnp.float32), metric="ip")
    queries = rng.normal(size=(Q, D)).astype(np.float32)
    database = rng.normal(size=(N, D)).astype(np.float32)
    query_labels = np.eye(L, dtype=np.uint8)[rng.integers(0, L, Q)]
    database_labels = (rng.random((N, L)) < 0.3).astype(np.uint8)  # some rows hold none
    return codec, queries, database, query_labels, database_labels


def by_definition(codec, queries, codes, query_labels, database_labels, top_k, denominator):
    """Distances of all items at once, and the tie-exact metric on them."""
    distances = codec.distances(jnp.asarray(queries), jnp.asarray(codes))
    relevant = query_labels.astype(int) @ database_labels.T.astype(int) > 0
    options = {"top_k": top_k, "denominator": denominator}
    return [
        float(metrics.average_precision(distances, relevant, ties=ties, **options).mean())
        for ties in ("worst", "expected", "best")
    ]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(
    ("top_k", "denominator"), [(None, "all"), (20, "hits"), (20, "capped"), (20, "all")]
)
def test_value_and_bounds_equal_the_metric_on_all_distances(case, metric, top_k, denominator):
    codec, queries, database, query_labels, database_labels = case
    codec = ProductCodec(codec.codebooks, metric=metric)
    codes = evaluate.encode(codec, database)
    result = evaluate.evaluate(
        codec,
        queries,
        codes,
        query_labels,
        database_labels,
        name="toy",
        distance="aqd",
        top_k=top_k,
        denominator=denominator,
    )
    expected = by_definition(
        codec, queries, codes, query_labels, database_labels, top_k, denominator
    )
    assert [result.worst, result.value, result.best] == pytest.approx(expected, abs=2e-6)
    assert result.worst < result.value < result.best
    cut = "all" if top_k is None else top_k
    assert result.metric == f"map@{cut}|ties=expected|den={denominator}|zero=0|dist=aqd"


def test_storage_order_leaves_every_bit(case, rng):
    codec, queries, database, query_labels, database_labels = case
    codes = evaluate.encode(codec, database)
    order = rng.permutation(N)
    results = [
        evaluate.evaluate(
            codec,
            queries,
            codes[rows],
            query_labels,
            database_labels[rows],
            name="toy",
            distance="aqd",
        )
        for rows in (np.arange(N), order)
    ]
    assert results[0] == results[1]


def test_queries_of_another_tile_get_the_same_value(case):
    codec, queries, database, query_labels, database_labels = case
    codes = evaluate.encode(codec, database)
    alone = [
        evaluate.evaluate(
            codec,
            queries[i : i + 1],
            codes,
            query_labels[i : i + 1],
            database_labels,
            name="toy",
            distance="aqd",
        ).value
        for i in (0, 63, 64, 69)
    ]
    together = evaluate.evaluate(
        codec,
        queries[[0, 63, 64, 69]],
        codes,
        query_labels[[0, 63, 64, 69]],
        database_labels,
        name="toy",
        distance="aqd",
    )
    assert together.value == pytest.approx(np.mean(alone), abs=1e-12)


def test_symmetric_distance_quantizes_the_queries(case):
    codec, queries, database, query_labels, database_labels = case
    codes = evaluate.encode(codec, database)
    quantized = np.asarray(codec.decode(codec.encode(jnp.asarray(queries))))
    symmetric = evaluate.evaluate(
        codec, queries, codes, query_labels, database_labels, name="toy", distance="sqd"
    )
    by_hand = evaluate.evaluate(
        codec, quantized, codes, query_labels, database_labels, name="toy", distance="aqd"
    )
    assert symmetric.value == by_hand.value
    assert symmetric.distance == "sqd"
    assert symmetric.metric.endswith("dist=sqd")


def test_float_codec_ranks_the_embeddings_themselves(case):
    _, queries, database, query_labels, database_labels = case
    codec = FloatCodec(D, metric="l2")
    result = evaluate.evaluate(
        codec,
        queries,
        evaluate.encode(codec, database),
        query_labels,
        database_labels,
        name="toy",
        distance="float",
    )
    gaps = np.square(queries[:, None].astype(np.float64) - database[None]).sum(-1)
    relevant = query_labels.astype(int) @ database_labels.T.astype(int) > 0
    expected = float(metrics.average_precision(gaps.astype(np.float32), relevant).mean())
    assert result.value == pytest.approx(expected, abs=1e-6)
    assert (result.bits, result.num_bytes, result.distinct_codes) == (32 * D, 4 * D, N)


def test_random_labels_score_at_chance(case, rng):
    codec, queries, database, query_labels, _ = case
    labels = np.eye(L, dtype=np.uint8)[rng.integers(0, L, N)]
    result = evaluate.evaluate(
        codec,
        queries,
        evaluate.encode(codec, database),
        query_labels,
        labels,
        name="toy",
        distance="aqd",
    )
    assert result.value == pytest.approx(result.chance, abs=0.03)
    assert result.chance == pytest.approx(1 / L, abs=0.03)


def test_queries_without_relevant_items_count_as_zero(case):
    codec, queries, database, query_labels, database_labels = case
    labels = database_labels.copy()
    labels[:, 0] = 0
    result = evaluate.evaluate(
        codec,
        queries,
        evaluate.encode(codec, database),
        query_labels,
        labels,
        name="toy",
        distance="aqd",
    )
    without = query_labels[:, 0] == 0
    others = evaluate.evaluate(
        codec,
        queries[without],
        evaluate.encode(codec, database),
        query_labels[without],
        labels,
        name="toy",
        distance="aqd",
    )
    assert result.zero_queries == int(np.sum(~without)) > 0
    assert result.value == pytest.approx(others.value * without.mean(), abs=1e-12)


def test_distinct_codes_and_bytes_are_counted(case):
    codec, queries, database, query_labels, database_labels = case
    codes = evaluate.encode(codec, database)
    result = evaluate.evaluate(
        codec, queries, codes, query_labels, database_labels, name="toy", distance="aqd"
    )
    assert result.distinct_codes == len({row.tobytes() for row in codes})
    assert (result.bits, result.num_bytes) == (6, 1)
    assert (result.num_queries, result.num_database) == (Q, N)


def test_labels_are_never_written_to(case):
    codec, queries, database, query_labels, database_labels = case
    before = query_labels.copy(), database_labels.copy()
    evaluate.evaluate(
        codec,
        queries,
        evaluate.encode(codec, database),
        query_labels,
        database_labels,
        name="toy",
        distance="aqd",
    )
    np.testing.assert_array_equal(before[0], query_labels)
    np.testing.assert_array_equal(before[1], database_labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, c, ql, dl: (q, c, ql[:-1], dl), r"query_labels must have shape \(70, L\)"),
        (lambda q, c, ql, dl: (q, c, ql, dl[:, 0]), r"database_labels must have shape \(300, L\)"),
        (lambda q, c, ql, dl: (q, c, ql, dl[:, :2]), "have 3 classes, database_labels 2"),
        (lambda q, c, ql, dl: (q, c[:0], ql, dl[:0]), "nothing to search: 70 queries, 0 items"),
        (lambda q, c, ql, dl: (np.full_like(q, np.nan), c, ql, dl), "query 0 hold NaN"),
    ],
)
def test_input_that_does_not_fit_is_refused(case, change, message):
    codec, queries, database, query_labels, database_labels = case
    arguments = change(queries, evaluate.encode(codec, database), query_labels, database_labels)
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(codec, *arguments, name="toy", distance="aqd")


def test_encoding_in_tiles_equals_encoding_at_once(case, rng, monkeypatch):
    codec, _, database, _, _ = case
    whole = np.asarray(jax.jit(lambda x: codec.encode(x))(database))
    monkeypatch.setattr(evaluate, "_ITEMS", 128)
    np.testing.assert_array_equal(evaluate.encode(codec, database), whole)
