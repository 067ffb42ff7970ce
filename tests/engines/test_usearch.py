"""USearch measures our distances from its file, and its recall is told."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index.engines import usearch as engine
from tests.engines import databases
from tests.engines.databases import codec_of, database, queries

usearch = pytest.importorskip("usearch.index", reason="the extra usearch is not installed")
pytestmark = pytest.mark.engines


@pytest.mark.parametrize("ids", ["numbers", "names"])
def test_a_written_file_measures_our_distances(ids, rng, tmp_path):
    index = database(codec_of("binary", rng), rng, ids=ids)
    exported = engine.export(index, tmp_path / "codes.usearch")
    assert 0.5 < exported.recall <= 1
    graph = usearch.Index.restore(str(exported.files[0]))
    x = queries(rng)
    due = databases.due_distances(index, x)
    # Asked for an exact answer, USearch scans all codes and not the graph.
    codes = np.asarray(index.codec.encode(jnp.asarray(x)))
    found = [graph.search(code, 9, exact=True) for code in codes]
    answers = np.array([x.keys.astype(np.int64) for x in found])
    if ids == "names":
        answers = np.array(exported.files[1].read_text().splitlines(), object)[answers]
    databases.check_answers(index, x, [x.distances for x in found], answers)
    assert due.shape == (len(x), databases.ROWS)


def test_negative_ids_are_refused(rng, tmp_path):
    index = database(codec_of("binary", rng), rng, ids="rows")
    index.ids[4] = -3
    with pytest.raises(ValueError, match="usearch takes ids of at least 0, got -3"):
        engine.export(index, tmp_path / "codes.usearch")
