"""LanceDB gives our answers from its folder, by the codes that were encoded."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index.engines import lancedb as engine
from tests.engines import databases
from tests.engines.databases import codec_of, database, queries

lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
pytest.importorskip("lance", reason="the extra lancedb is not installed")
pytestmark = pytest.mark.engines

SIZES = (3, 256), (4, 16)


def answers(folder, codec, x, top_k):
    """Asks LanceDB itself, as its user would."""
    table = lancedb.connect(folder).open_table("codes")
    distance = {"l2": "l2", "ip": "dot", "hamming": "hamming"}[codec.metric]
    found = [
        table.search(vector).distance_type(distance).limit(top_k).to_list()
        for vector in engine.search_vectors(codec, x)
    ]
    ids = np.array([[row["id"] for row in answer] for answer in found], object)
    return np.array([[row["_distance"] for row in answer] for answer in found]), ids


@pytest.mark.parametrize(
    ("kind", "metric", "size", "ids"),
    [
        ("product", "l2", (3, 256), "numbers"),
        ("product", "ip", (3, 256), "names"),
        ("product", "l2", (4, 16), "rows"),
        ("rotated", "l2", (3, 256), "names"),
        ("rotated", "ip", (4, 16), "numbers"),
        ("binary", "l2", (4, 16), "numbers"),
        ("signs", "l2", (4, 16), "names"),
    ],
)
def test_a_written_folder_gives_our_answers(kind, metric, size, ids, rng, tmp_path):
    codec = codec_of(kind, rng, metric=metric, num_codebooks=size[0], num_codewords=size[1])
    index = database(codec, rng, ids=ids)
    exported = engine.export(index, tmp_path / "db")
    assert (exported.recall, exported.files) == (1, (tmp_path / "db",))
    x = queries(rng)
    distances, found = answers(tmp_path / "db", index.codec, x, 7)
    databases.check_answers(index, x, distances - (metric == "ip"), found)


@pytest.mark.parametrize("size", SIZES)
def test_stored_vectors_encode_to_the_codes(size, rng, tmp_path):
    codec = codec_of("product", rng, num_codebooks=size[0], num_codewords=size[1])
    index = database(codec, rng, ids="rows")
    engine.export(index, tmp_path / "db")
    rows = lancedb.connect(tmp_path / "db").open_table("codes").to_arrow().to_pydict()
    x = jnp.asarray(rows["vector"], jnp.float32)
    np.testing.assert_array_equal(index.codec.encode(x), index.codes)


def test_classes_filter(rng, tmp_path):
    index = database(codec_of("product", rng, num_codewords=256), rng)
    engine.export(index, tmp_path / "db")
    table = lancedb.connect(tmp_path / "db").open_table("codes")
    found = (
        table.search(queries(rng)[0]).where("class = 'cat'", prefilter=True).limit(400).to_list()
    )
    due = index.ids[index.labels == databases.CLASSES.index("cat")]
    assert sorted(row["id"] for row in found) == sorted(due.tolist())


def test_a_folder_that_exists_is_refused_and_kept(rng, tmp_path):
    (tmp_path / "db").mkdir()
    with pytest.raises(OSError, match="db exists; name a folder that does not, or remove it"):
        engine.export(database(codec_of("binary", rng), rng), tmp_path / "db")
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


@pytest.mark.parametrize("num_codewords", [8, 16])
def test_codebooks_of_other_sizes_are_refused(num_codewords, rng, tmp_path):
    index = database(codec_of("product", rng, num_codewords=num_codewords), rng)
    with pytest.raises(ValueError, match="lancedb takes codebooks of 256 codewords, or an even"):
        engine.export(index, tmp_path / "db")
    assert list(tmp_path.iterdir()) == []
