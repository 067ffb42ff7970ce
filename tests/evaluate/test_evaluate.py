"""Numbers from codes: against the definition, and what is refused."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate
from quantjax.evaluate import evaluation
from quantjax.metrics import measures
from quantjax.quantizers import FloatCodec, ProductCodec
from tests.evaluate import cases
from tests.evaluate.cases import N, Q, codecs, embeddings, labels, measured

CUTS = [(None, "all"), (20, "hits"), (20, "capped"), (20, "all")]


@pytest.mark.parametrize("label_kind", ["class ids", "one-hot", "multi-hot"])
@pytest.mark.parametrize("codec_name", codecs())
@pytest.mark.by_default(
    "product ip-*", "binary-*", "product l2-class ids", "product sqd-multi-hot", "float-one-hot"
)
def test_value_and_bounds_equal_the_metric_on_all_distances(codec_name, label_kind):
    asked = [measures.average_precision(top_k=k, denominator=den) for k, den in CUTS]
    results = measured(codec_name, label_kind, measures=asked)
    for number, (top_k, denominator) in zip(results.numbers, CUTS, strict=True):
        worst, expected, best = cases.by_definition(
            codec_name, label_kind, top_k=top_k, denominator=denominator
        )
        np.testing.assert_allclose(results.per_query[number.metric], expected, atol=5e-6)
        got = [number.worst, number.value, number.best]
        assert got == pytest.approx([x.mean() for x in (worst, expected, best)], abs=2e-6)
        cut = "all" if top_k is None else top_k
        distance = codecs()[codec_name][1]
        assert number.metric == (
            f"map@{cut}|ties=expected|den={denominator}|zero=0|dist={distance}"
        )
    if codec_name != "float":
        assert results.numbers[0].worst < results.value < results.numbers[0].best


@pytest.mark.parametrize("codec_name", ["product ip", "binary"])
def test_every_measure_is_its_metric_on_all_distances(codec_name):
    asked = [measure for measure, _ in cases.MEASURES.values()]
    results = measured(codec_name, "multi-hot", measures=asked)
    distance = codecs()[codec_name][1]
    assert list(results.per_query) == [f"{head}|dist={distance}" for head in cases.MEASURES]
    for number, (measure, graded) in zip(results.numbers, cases.MEASURES.values(), strict=True):
        counts = cases.all_counts(codec_name, "multi-hot", num_grades=1 + cases.L if graded else 2)
        assert measure.graded == graded
        bounds = [measure.of(counts, ties=ties) for ties in ("worst", "expected", "best")]
        np.testing.assert_allclose(results.per_query[number.metric], bounds[1], atol=1e-10)
        due = [values.mean() for values in bounds]
        assert [number.worst, number.value, number.best] == pytest.approx(due, abs=1e-10)
        assert number.low < number.value < number.high
        assert number.chance > 0
        assert number.zeros == np.sum(bounds[1] == 0)
    several = measured(codec_name, "multi-hot", measures=[asked[3], asked[6]])
    assert several.numbers == (results.numbers[3], results.numbers[6])


def test_balls_are_sets_of_items_within_a_hamming_distance():
    asked = measures.precision_within_radius(radius=1), measures.empty_balls(radius=0)
    results = measured("binary", "class ids", measures=asked)
    counts = cases.all_counts("binary", "class ids", num_grades=2)
    inside = counts[:, :2].sum(axis=1)
    due = inside[:, 1] / np.maximum(inside[:, 0], 1)
    np.testing.assert_allclose(results.per_query["p<=1|empty=0|zero=0|dist=hamming"], due)
    empty = results.per_query["empty<=0|dist=hamming"]
    np.testing.assert_array_equal(empty, counts[:, 0, 0] == 0)
    number = results.numbers[0]
    assert number.worst == number.value == number.best
    assert "chance" not in results.rows()[0]
    with pytest.raises(
        ValueError, match="p<=1 is of a set within a Hamming distance; it takes binary"
    ):
        measured("product ip", measures=asked)


def test_symmetric_distance_quantizes_the_queries():
    symmetric, asymmetric = measured("product sqd"), measured("product l2")
    assert symmetric.value != asymmetric.value
    assert symmetric.distance == "sqd"
    assert symmetric.metric.endswith("dist=sqd")


def test_labels_that_are_shuffled_get_the_chance_level():
    # One label a row: with several, the mean over queries hides what a single one may get.
    results = measured("binary", "class ids")
    number = results.numbers[0]
    assert number.shuffled == pytest.approx(number.chance, abs=0.02)
    assert number.chance == pytest.approx(1 / cases.L, abs=0.03)
    # A query's own labels as embedding: all relevant items first, unless labels are shuffled.
    query, database = labels()["one-hot"]
    codec = ProductCodec(jnp.eye(cases.L)[None].repeat(1, 0), metric="ip")
    codec = dataclasses.replace(codec, codebooks=jnp.pad(codec.codebooks, ((0, 0), (0, 1), (0, 0))))
    perfect = evaluate.evaluate(
        codec,
        query.astype(np.float32),
        evaluate.encode(codec, database.astype(np.float32)),
        query,
        database,
        name="labels",
        distance="aqd",
    )
    assert perfect.value == 1.0
    assert perfect.numbers[0].shuffled == pytest.approx(1 / cases.L, abs=0.03)


def test_queries_without_relevant_items_count_as_zero():
    codec, distance = codecs()["binary"]
    queries, database = embeddings()
    query_ids, database_ids = labels()["class ids"]
    codes = evaluate.encode(codec, database)
    moved = np.where(database_ids == 0, 1, database_ids)

    def run(rows):
        return evaluate.evaluate(
            codec, queries[rows], codes, query_ids[rows], moved, name="toy", distance=distance
        )

    without = query_ids != 0
    results, others = run(slice(None)), run(without)
    assert results.zero_queries == int(np.sum(~without)) > 0
    assert results.numbers[0].zeros == results.zero_queries
    assert others.numbers[0].zeros == others.zero_queries == 0
    assert np.all(results.per_query[results.metric][~without] == 0)
    assert results.value == pytest.approx(others.value * without.mean(), abs=1e-12)


@pytest.mark.parametrize("codec_name", ["binary", "product l2", "float"])
def test_what_is_stored_is_described(codec_name):
    codec, _ = codecs()[codec_name]
    results = measured(codec_name)
    codes = evaluate.encode(codec, embeddings()[1])
    _, items = np.unique(codes, axis=0, return_counts=True)
    assert results.distinct_codes == len(items)
    share = items / N
    assert results.code_entropy == pytest.approx(-np.sum(share * np.log2(share)), abs=1e-9)
    assert (results.bits, results.num_bytes) == (codec.bits, codec.num_bytes)
    assert (results.num_queries, results.num_database) == (Q, N)
    assert results.seconds > 0
    assert set(results.versions) == {"quantjax", "jax", "jaxlib", "numpy"}
    assert results.metric_of_codec == codec.metric


def test_a_cut_beyond_the_database_is_none_and_the_id_says_so():
    whole = measured("binary", measures=[measures.average_precision()])
    beyond = measured("binary", measures=[measures.average_precision(top_k=5000)])
    assert beyond.metric == "map@all(5000)|ties=expected|den=capped|zero=0|dist=hamming"
    assert beyond.value == whole.value
    at = measured("binary", measures=[measures.average_precision(top_k=N)])
    assert at.metric.startswith(f"map@{N}|")


def test_labels_are_never_written_to():
    query, database = (side.copy() for side in labels()["multi-hot"])
    measured("product ip")
    np.testing.assert_array_equal(query, labels()["multi-hot"][0])
    np.testing.assert_array_equal(database, labels()["multi-hot"][1])
    for side in labels()["multi-hot"]:  # and read-only labels are welcome
        side.flags.writeable = False
    measured("product ip")
    measured("binary")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, c, ql, dl: (q, c, ql[:-1], dl), "query_labels must be of 70 items, got 69"),
        (lambda q, c, ql, dl: (q, c, ql, dl[1:]), "database_labels must be of 301 items, got 300"),
        (lambda q, c, ql, dl: (q, c, ql, dl[:, :2]), "have 3 classes, database_labels 2"),
        (lambda q, c, ql, dl: (q, c[:0], ql, dl[:0]), "nothing to search: 70 queries, 0 items"),
        (lambda q, c, ql, dl: (q[:0], c, ql[:0], dl), "nothing to search: 0 queries, 301 items"),
        (lambda q, c, ql, dl: (q, c[:, :0], ql, dl), r"uint8 of shape \[N, 1\], got .*\(301, 0\)"),
        (lambda q, c, ql, dl: (q, c.astype(int), ql, dl), r"uint8 of shape \[N, 1\], got int64"),
        (lambda q, c, ql, dl: (q * _nan_in(66), c, ql, dl), r"queries .* NaN in row 66 \(1 of 70"),
        (lambda q, c, ql, dl: (q[0], c, ql, dl), r"queries must be real embeddings .*float32 \(6,"),
        (lambda q, c, ql, dl: (q + 1j, c, ql, dl), "queries must be real embeddings .*complex"),
        (lambda q, c, ql, dl: (None, c, ql, dl), "queries must be real embeddings .*object"),
        (lambda q, c, ql, dl: (q, None, ql, dl), r"codes must be uint8 .*got object \(\)"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, message):
    codec, distance = codecs()["product ip"]
    queries, database = embeddings()
    arguments = change(queries, evaluate.encode(codec, database), *labels()["multi-hot"])
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(codec, *arguments, name="toy", distance=distance)


def _nan_in(row):
    return np.where(np.arange(Q) == row, np.nan, 1).astype(np.float32)[:, None]


@pytest.mark.parametrize(
    ("codec_name", "distance"),
    [
        ("binary", "aqd"),
        ("product l2", "hamming"),
        ("float", "adc"),
        ("float", "aqd"),
        ("product l2", "float"),
    ],
)
def test_a_distance_that_is_not_the_codecs_is_refused(codec_name, distance):
    with pytest.raises(ValueError, match=f"distance must be .*got '{distance}'"):
        measured(codec_name, distance=distance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ()}, "measures is empty"),
        ({"measures": ["map"]}, "measures must be of metrics.measures, got 'map'"),
        ({"measures": [measures.wap()] * 2}, "measures must differ, got one twice"),
        ({"mesh": jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])}, "one axis 'data'"),
    ],
)
@pytest.mark.parametrize("codec_name", ["binary", "product ip"])
def test_work_that_cannot_be_is_refused(codec_name, options, message):
    with pytest.raises(ValueError, match=message):
        measured(codec_name, **options)


def test_one_measure_needs_no_list():
    alone = measured("binary", measures=measures.r_precision())
    assert alone.numbers == measured("binary", measures=iter([measures.r_precision()])).numbers


def test_more_shared_labels_than_grades_are_refused():
    codec, distance = codecs()["binary"]
    everything = np.ones((3, 70))
    x = embeddings()[0][:3]
    arguments = (codec, x, evaluate.encode(codec, x), everything, everything)
    options = {"name": "many", "distance": distance}
    with pytest.raises(ValueError, match=r"ndcg tells up to 63 shared labels apart.*share 70"):
        evaluate.evaluate(*arguments, **options, measures=[measures.ndcg()])
    assert evaluate.evaluate(*arguments, **options).value == 1


@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_what_is_no_number_is_refused_before_a_code_hides_it(value, text):
    x = embeddings()[0].copy()
    x[3, 1] = value
    for name, kind in itertools.product(
        ("binary", "product l2", "float"), (np.float16, np.float32)
    ):
        message = rf"x must be numbers, got {text} in row 3 \(1 of 70 rows"
        with pytest.raises(ValueError, match=message):
            evaluate.encode(codecs()[name][0], x.astype(kind))
    codec, distance = codecs()["binary"]
    ids = np.zeros(Q, int)
    codes = evaluate.encode(codec, embeddings()[0])
    with pytest.raises(ValueError, match=f"queries must be numbers, got {text} in row 3"):
        evaluate.evaluate(codec, x, codes, ids, ids, name="nan", distance=distance)


@pytest.mark.parametrize("name", ["float ip", "float l2", "product ip"])
def test_distances_beyond_float32_are_refused(name):
    books = np.float32(1e30) * embeddings()[1][:4].reshape(1, 4, -1)
    kind, metric = name.split()
    codec = FloatCodec(cases.D, metric) if kind == "float" else ProductCodec(books, metric=metric)
    x, ids = np.float32(1e30) * embeddings()[0], np.arange(Q) % 3
    codes = evaluate.encode(codec, x)
    distance = "float" if kind == "float" else "aqd"
    with pytest.raises(ValueError, match=r"distances of query 0 hold (NaN|infinity): .* scale"):
        evaluate.evaluate(codec, x, codes, ids, ids, name="long", distance=distance)


def test_no_embeddings_are_no_codes():
    codec, _ = codecs()["product l2"]
    assert evaluate.encode(codec, np.zeros((0, cases.D))).shape == (0, 1)
    assert evaluate.encode(codec, [[0.0] * cases.D]).dtype == np.uint8


def test_encoding_in_tiles_equals_encoding_at_once(monkeypatch):
    codec, _ = codecs()["product l2"]
    database = embeddings()[1]
    whole = np.asarray(jax.jit(lambda x: codec.encode(x))(database))
    monkeypatch.setattr(evaluation, "_ITEMS", 128)
    np.testing.assert_array_equal(evaluate.encode(codec, database), whole)
