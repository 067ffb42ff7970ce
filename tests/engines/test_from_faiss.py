"""Indexes that FAISS trained give FAISS's answers as ours, and ours come back to the byte."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.index import from_faiss, to_faiss
from quantjax.index.engines import faiss as engine
from quantjax.index.engines import self_test
from tests.engines.databases import D, codec_of, database, queries

faiss = pytest.importorskip("faiss")
RESIDUAL = faiss.AdditiveQuantizer


@pytest.mark.parametrize("kind", ["product", "rotated", "residual", "float", "binary"])
def test_an_index_comes_back_to_the_byte(kind, rng):
    index = database(codec_of(kind, rng, metric="ip"), rng)
    found = from_faiss(to_faiss(index))
    np.testing.assert_array_equal(found.codes, index.codes)
    np.testing.assert_array_equal(found.ids, index.ids)
    if kind != "binary":  # FAISS keeps neither offset nor projection
        x = jnp.asarray(queries(rng))
        np.testing.assert_array_equal(found.codec.encode(x), index.codec.encode(x))
        np.testing.assert_array_equal(
            found.codec.decode(found.codes), index.codec.decode(index.codes)
        )


def test_networks_come_back_to_the_last_bit(rng):
    index = database(codec_of("networks", rng), rng, ids="rows")
    found = from_faiss(to_faiss(index))
    np.testing.assert_array_equal(found.codes, index.codes)
    # The lookup table is ours; with all codewords as candidates it is not read.
    for name in found.codec.networks._fields[:-1]:
        np.testing.assert_array_equal(getattr(found.codec, name), getattr(index.codec, name))
    assert (found.codec.beam_width, found.codec.num_candidates) == (1, 16)
    x = jnp.asarray(queries(rng, 40))
    np.testing.assert_array_equal(found.codec.encode(x), index.codec.encode(x))


TRAINED = {
    "pq": lambda: faiss.IndexPQ(D, 3, 4),
    "pq ip": lambda: faiss.IndexPQ(D, 3, 5, faiss.METRIC_INNER_PRODUCT),
    "opq": lambda: faiss.index_factory(D, "OPQ3,PQ3x4np"),
    "rq": lambda: faiss.IndexResidualQuantizer(D, 2, 4, faiss.METRIC_L2, RESIDUAL.ST_decompress),
    "ivf": lambda: faiss.index_factory(D, "IVF5,PQ3x4np"),
    "opq ivf ip": lambda: faiss.index_factory(D, "OPQ3,IVF5,PQ3x4np", faiss.METRIC_INNER_PRODUCT),
    "flat": lambda: faiss.IndexFlatIP(D),
}


CASES = [(name, "ivf" in name) for name in TRAINED] + [("pq", True), ("ivf", False)]


@pytest.mark.parametrize(("name", "with_ids"), CASES)
@pytest.mark.by_default("pq-*", "ivf-*", "flat-*")
def test_what_faiss_trained_gives_its_answers(name, with_ids, rng):
    theirs = TRAINED[name]()
    x = np.float32(rng.normal(size=(400, D)))
    theirs.train(x)
    if with_ids and "ivf" not in name:
        theirs = faiss.IndexIDMap2(theirs)
    theirs.add_with_ids(x, 7000 - np.arange(400)) if with_ids else theirs.add(x)
    if "ivf" in name:
        faiss.extract_index_ivf(theirs).nprobe = 5
    index = from_faiss(theirs)
    assert sorted(index.ids.tolist()) == (list(range(6601, 7001)) if with_ids else list(range(400)))
    search = lambda *asked: engine.search(theirs, index.codec, *asked)  # noqa: E731
    assert self_test.check_exact("faiss", index, search) == 1
    if "ivf" in name:
        again = from_faiss(to_faiss(index))
        np.testing.assert_array_equal(again.codes, index.codes)
        np.testing.assert_array_equal(again.ids, index.ids)
        np.testing.assert_array_equal(again.lists.starts, index.lists.starts)
        np.testing.assert_allclose(again.lists.centroids, index.lists.centroids, atol=1e-5)


def test_an_index_without_items_gives_the_codec(rng):
    theirs = TRAINED["pq"]()
    x = np.float32(rng.normal(size=(400, D)))
    theirs.train(x)
    index = from_faiss(theirs)
    assert index.codes.shape == (0, 2)
    np.testing.assert_array_equal(index.codec.encode(jnp.asarray(x)), theirs.sa_encode(x))


def pca():
    step = faiss.PCAMatrix(D, 6)
    step.train(np.float32(np.random.default_rng(0).normal(size=(50, D))))
    return faiss.IndexPreTransform(step, faiss.IndexFlat(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: faiss.IndexPQ(D, 3, 4), "the FAISS index is not trained"),
        (lambda: faiss.IndexHNSWFlat(D, 8), "no codec for IndexHNSWFlat; there are IndexPQ,"),
        (lambda: faiss.IndexFlat(D, faiss.METRIC_L1), "the metric must be L2 or inner product"),
        (pca, "must be one square LinearTransform without bias, got PCAMatrix"),
    ],
)
def test_other_indexes_are_refused(make, message):
    theirs = make()
    with pytest.raises(ValueError, match=message):
        from_faiss(theirs)
