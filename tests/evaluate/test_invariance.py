"""No number moves with the order of storage, tiles, devices or the batch of queries."""

import functools

import jax
import numpy as np
import pytest

from quantjax import evaluate
from quantjax.evaluate import hamming, ranked
from quantjax.metrics import measures
from quantjax.quantizers import FloatCodec
from quantjax.run import parallel
from tests.evaluate import cases
from tests.evaluate.cases import N, codecs, embeddings, labels, measured


def ignoring_the_run(results):
    """Results without what differs between two runs of one computation."""
    numbers = results._replace(per_query={}, seconds=0.0, device="")
    return numbers, {key: values.tolist() for key, values in results.per_query.items()}


@functools.cache
def everything(codec_name):
    """Every measure, on one device and in tiles of the default size."""
    return measured(codec_name, measures=EVERYTHING)


EVERYTHING = [measures.average_precision(), *(measure for measure, _ in cases.MEASURES.values())]


def assert_equal_numbers(got, due):
    assert list(got.per_query) == list(due.per_query)
    for metric, values in due.per_query.items():
        np.testing.assert_allclose(got.per_query[metric], values, rtol=0, atol=1e-6)
    for one, other in zip(got.numbers, due.numbers, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("codec_name", codecs())
@pytest.mark.by_default("product cosine", "binary")
def test_storage_order_leaves_every_bit(codec_name, rng):
    got = measured(codec_name, rows=rng.permutation(N), measures=EVERYTHING)
    assert ignoring_the_run(got) == ignoring_the_run(everything(codec_name))


@pytest.mark.parametrize("codec_name", ["binary", "product ip"])
@pytest.mark.parametrize("tile", [1, 16, 64])
@pytest.mark.by_default("1-binary", "16-product ip")
def test_tiles_of_any_size_give_the_same_numbers(codec_name, tile, monkeypatch):
    due = everything(codec_name)
    monkeypatch.setattr(hamming, "_ITEMS", tile)
    monkeypatch.setattr(ranked, "_ITEMS", tile)
    assert_equal_numbers(measured(codec_name, measures=EVERYTHING), due)


@pytest.mark.parametrize("codec_name", codecs())
@pytest.mark.parametrize("num_devices", [2, 8])
@pytest.mark.by_default("8-product cosine", "2-binary")
def test_any_number_of_devices_gives_the_same_numbers(codec_name, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    due = everything(codec_name)
    got = measured(codec_name, measures=EVERYTHING, mesh=mesh)
    assert got.device.startswith(f"{num_devices} x ")
    assert_equal_numbers(got, due)
    if codec_name == "binary":
        assert ignoring_the_run(got) == ignoring_the_run(due)


def test_queries_in_another_tile_get_the_same_value():
    codec, distance = codecs()["product ip"]
    queries, database = embeddings()
    asked, held = labels()["multi-hot"]
    rows = np.array([0, 63, 64, 69])
    some = evaluate.evaluate(
        codec,
        queries[rows],
        evaluate.encode(codec, database),
        asked[rows],
        held,
        name="toy",
        distance=distance,
    )
    whole = measured("product ip")
    due = whole.per_query[some.metric][rows]
    np.testing.assert_allclose(some.per_query[some.metric], due, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.by_default("cosine")
def test_equal_float_distances_stay_equal_on_any_mesh_and_in_any_batch(rng, metric):
    # Signs as floats, as saturated networks give: many ties in exact arithmetic, in float32 a
    # matter of the order of sums, which must not follow mesh or batch.
    sides = [np.where(rng.random((n, 48)) < 0.5, -1, 1) for n in (20, 1250)]
    x, database = (np.float32(0.1) * side.astype(np.float32) for side in sides)
    ids = rng.integers(0, 3, 20), rng.integers(0, 3, 1250)
    codec = FloatCodec(48, metric=metric)
    codes = evaluate.encode(codec, database)

    def run(rows=slice(None), **options):
        return evaluate.evaluate(
            codec, x[rows], codes, ids[0][rows], ids[1], name="signs", distance="float", **options
        )

    due = run()
    assert run(mesh=parallel.data_mesh()).numbers == due.numbers
    alone = run(slice(7, 8))
    np.testing.assert_array_equal(alone.per_query[alone.metric], due.per_query[due.metric][7:8])
