"""DuckDB gives our answers from its file, also for codes of several words."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index.engines import duckdb as engine
from quantjax.quantizers import BinaryCodec
from tests.engines import databases
from tests.engines.databases import codec_of, database, queries

duckdb = pytest.importorskip("duckdb", reason="the extra duckdb is not installed")
pytestmark = pytest.mark.engines


def wide_codec(rng):
    projection = jnp.asarray(rng.normal(size=(databases.D, 150)), jnp.float32)
    return BinaryCodec(150, projection=projection)


@pytest.mark.parametrize("ids", ["numbers", "names"])
@pytest.mark.parametrize("kind", ["signs", "binary", "wide"])
def test_a_written_file_gives_our_answers(kind, ids, rng, tmp_path):
    codec = wide_codec(rng) if kind == "wide" else codec_of(kind, rng)
    index = database(codec, rng, ids=ids)
    exported = engine.export(index, tmp_path / "codes.duckdb")
    assert exported.recall == 1
    assert [path.name for path in tmp_path.iterdir()] == ["codes.duckdb"]
    x = np.concatenate([queries(rng), -queries(rng)])
    with duckdb.connect(str(exported.files[0]), read_only=True) as connection:
        answers = [
            connection.execute(engine.search_sql(code, 9)).fetchall()
            for code in np.asarray(codec.encode(jnp.asarray(x)))
        ]
    ids, distances = zip(*(zip(*answer, strict=True) for answer in answers), strict=True)
    databases.check_answers(index, x, distances, np.array(ids, object))


def test_opposite_codes_are_all_bits_apart(rng, tmp_path):
    index = database(wide_codec(rng), rng, ids="rows")
    path = engine.export(index, tmp_path / "codes.duckdb").files[0]
    opposite = ~index.codes[7]
    opposite[-1] &= 63  # of 150 bits the last byte has 6
    with duckdb.connect(str(path), read_only=True) as connection:
        answers = dict(connection.execute(engine.search_sql(opposite, databases.ROWS)).fetchall())
    assert answers[7] == 150


def test_classes_come_along(rng, tmp_path):
    index = database(codec_of("binary", rng), rng)
    path = engine.export(index, tmp_path / "codes.duckdb").files[0]
    with duckdb.connect(str(path), read_only=True) as connection:
        found = dict(connection.execute("SELECT id, class FROM codes").fetchall())
    due = [None if label < 0 else databases.CLASSES[label] for label in index.labels]
    assert [found[name] for name in index.ids.tolist()] == due


def test_codes_that_are_not_binary_are_refused(rng, tmp_path):
    index = database(codec_of("product", rng), rng)
    with pytest.raises(ValueError, match="duckdb takes the codes of BinaryCodec, got ProductCodec"):
        engine.export(index, tmp_path / "codes.duckdb")
    assert list(tmp_path.iterdir()) == []
