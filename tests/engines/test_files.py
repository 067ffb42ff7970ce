"""Files for other engines hold the codes, and their distances are the codec's."""

import json

import numpy as np
import pytest

from quantjax.index.engines import files as engine
from tests.engines import databases
from tests.engines.databases import codec_of, database, queries


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ids", ["numbers", "names"])
@pytest.mark.parametrize("kind", ["rotated", "binary"])
def test_npz_holds_all_arrays(kind, ids, rng, tmp_path):
    index = database(codec_of(kind, rng), rng, ids=ids)
    vectors = np.float16(rng.normal(size=(databases.ROWS, databases.D)))
    exported = engine.export_npz(index._replace(vectors=vectors), tmp_path / "index.npz")
    with np.load(exported.files[0], allow_pickle=False) as arrays:
        for name in ("codes", "ids", "labels"):
            np.testing.assert_array_equal(arrays[name], getattr(index, name))
        np.testing.assert_array_equal(arrays["vectors"], vectors)
        assert arrays["classes"].tolist() == list(databases.CLASSES)
        assert (arrays["metric"], arrays["bits"]) == (index.codec.metric, index.codec.bits)
        name = "projection" if kind == "binary" else "rotation"
        np.testing.assert_array_equal(arrays[f"codec.{name}"], getattr(index.codec, name))


@pytest.mark.parametrize(
    ("export", "vector"),
    [
        (
            engine.export_opensearch,
            {"type": "knn_vector", "data_type": "binary", "space_type": "hamming", "dimension": 24},
        ),
        (engine.export_elasticsearch, {"type": "dense_vector", "element_type": "bit", "dims": 24}),
    ],
)
@pytest.mark.parametrize("ids", ["numbers", "names"])
def test_bulk_lines_hold_signed_bytes(export, vector, ids, rng, tmp_path):
    index = database(codec_of("binary", rng), rng, ids=ids)
    bulk, mapping = export(index, tmp_path / "bulk.json").files
    assert json.loads(mapping.read_text())["mappings"]["properties"]["code"] == vector
    heads, bodies = lines(bulk)[::2], lines(bulk)[1::2]
    assert [head["index"]["_id"] for head in heads] == [str(name) for name in index.ids]
    codes = np.array([body["code"] for body in bodies])
    assert -128 <= codes.min() < 0 < codes.max() <= 127
    np.testing.assert_array_equal(codes % 256, index.codes)
    names = [body.get("class") for body in bodies]
    assert names == [[*databases.CLASSES, None][label] for label in index.labels]


@pytest.mark.parametrize("export", [engine.export_qdrant, engine.export_cuvs])
@pytest.mark.parametrize(
    ("kind", "metric"), [("rotated", "l2"), ("residual", "cosine"), ("binary", "l2")]
)
def test_vectors_have_the_distances_of_the_codes(export, kind, metric, rng, tmp_path):
    index = database(codec_of(kind, rng, metric=metric), rng)
    vectors, described = export(index, tmp_path / "out").files
    x, asked = np.float64(np.load(vectors)), queries(rng)
    due = databases.due_distances(index, asked)
    if kind == "binary":
        bits = np.unpackbits(np.asarray(index.codec.encode(asked)), 1, 20, "little")
        gaps = np.abs(bits[:, None] - x)
        np.testing.assert_array_equal(gaps.sum(axis=2), due)
        np.testing.assert_array_equal((gaps**2).sum(axis=2), due)
    else:
        found = databases.oracles.distances(asked, x, metric)
        np.testing.assert_allclose(found, due, atol=1e-5)
    assert [item["id"] for item in lines(described)] == index.ids.tolist()


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("rotated", "l2"), ("product", "ip"), ("residual", "cosine"), ("binary", "l2")],
)
def test_qdrant_answers_as_the_codec_by_the_lines_of_the_export(kind, metric, rng, tmp_path):
    qdrant = pytest.importorskip("qdrant_client")
    index = database(codec_of(kind, rng, metric=metric), rng)
    exported = engine.export_qdrant(index, tmp_path / "out")
    # In this process, in the place of a server.
    client = qdrant.QdrantClient(":memory:")
    server = "q.QdrantClient(url='http://localhost:6333')"
    assert exported.usage.count(server) == 1
    exec(exported.usage.replace(server, "memory"), {"memory": client})
    asked = queries(rng)
    due = databases.due_distances(index, asked)
    x = asked
    if kind == "binary":
        x = np.unpackbits(np.asarray(index.codec.encode(asked)), 1, 20, "little")
    of_score = {"l2": np.square, "ip": np.negative, "cosine": lambda score: 1 - score}
    as_distances = (lambda score: score) if kind == "binary" else of_score[metric]
    for query, distances in zip(x, due, strict=True):
        found = client.query_points("codes", query=query.tolist(), limit=5).points
        scores = as_distances(np.array([point.score for point in found]))
        np.testing.assert_allclose(scores, np.sort(distances)[:5], atol=1e-4)
        names = [index.ids.tolist().index(point.payload["id"]) for point in found]
        np.testing.assert_allclose(distances[names], scores, atol=1e-4)


def test_product_codes_are_no_bulk_lines(rng, tmp_path):
    index = database(codec_of("product", rng), rng)
    with pytest.raises(ValueError, match="opensearch takes the codes of BinaryCodec, got Product"):
        engine.export_opensearch(index, tmp_path / "bulk.json")
    assert list(tmp_path.iterdir()) == []
