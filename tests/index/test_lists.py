"""Inverted lists find what brute force finds in the probed lists."""

import jax
import numpy as np
import pytest

from quantjax import evaluate, index
from quantjax.errors import InputError
from quantjax.quantizers import BinaryCodec, ProductCodec
from quantjax.run import parallel

N, D, L = 6000, 16, 24


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4)) @ rng.normal(size=(4, D)) + 0.3 * rng.normal(size=(N, D))
    return (x + 20).astype(np.float32)


@pytest.fixture(scope="module")
def artefact(vectors):
    return index.build_lists(
        jax.random.key(0), vectors, num_lists=L, num_codebooks=4, num_codewords=16
    )


@pytest.fixture
def queries(vectors, rng):
    return vectors[:70] + 0.1 * rng.normal(size=(70, D)).astype(np.float32)


def brute_force(artefact, queries):
    """Distances [Q, N] in float64, and each item's list [N]."""
    codec, lists = artefact.codec, artefact.lists
    of_list = np.repeat(np.arange(L), np.diff(lists.starts))
    items = np.asarray(codec.decode(artefact.codes), np.float64) + lists.centroids[of_list]
    distances = [np.square(items - query).sum(1) for query in queries.astype(np.float64)]
    return np.stack(distances), of_list


@pytest.mark.parametrize("num_probes", [1, 3, None])
def test_items_of_the_probed_lists_are_found(artefact, queries, num_probes):
    truth, of_list = brute_force(artefact, queries)
    gaps = np.square(queries[:, None].astype(np.float64) - artefact.lists.centroids).sum(-1)
    probed = np.argsort(np.argsort(gaps, axis=1), axis=1) < (num_probes or L)
    truth = np.where(probed[:, of_list], truth, np.inf)
    found = index.search(artefact, queries, top_k=5, num_probes=num_probes)
    np.testing.assert_allclose(found.distances, np.sort(truth, axis=1)[:, :5], rtol=1e-4, atol=1e-4)
    said = np.take_along_axis(truth, found.rows, 1)
    np.testing.assert_allclose(found.distances, said, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.ids, artefact.ids[found.rows])


def test_lists_hold_each_vector_once_nearest_to_its_centroid(artefact, vectors):
    assert sorted(artefact.ids) == list(range(N))
    of_list = np.repeat(np.arange(L), np.diff(artefact.lists.starts))
    gaps = np.square(vectors[artefact.ids][:, None] - artefact.lists.centroids).sum(-1)
    assert (gaps[np.arange(N), of_list] <= gaps.min(1) + 1e-3).all()


def test_more_probes_find_more_of_the_true_neighbours(artefact, vectors, queries):
    truth = index.true_neighbours(vectors, queries, 10)
    recalls = [
        evaluate.recall(artefact, queries, truth, at=(10,), num_probes=n)["10-recall@10"]
        for n in (1, 4, L)
    ]
    assert recalls[0] < recalls[1] <= recalls[2] + 0.02  # far lists bring false neighbours too
    assert recalls[2] > 0.3


def test_lists_are_probed_until_there_are_enough_items(artefact, queries):
    found = index.search(artefact, queries[:3], top_k=N, num_probes=1)
    assert (np.sort(found.rows, axis=1) == np.arange(N)).all()


def test_the_number_of_queries_does_not_change_a_bit(artefact, queries):
    many = index.search(artefact, queries, top_k=20, num_probes=3)
    few = index.search(artefact, queries[66:67], top_k=5, num_probes=3)
    for a, b in zip(many, few, strict=True):
        np.testing.assert_array_equal(a[66:67, :5], b)


def test_a_search_among_allowed_items_finds_no_others(artefact, queries, rng):
    mask = rng.random(N) < 0.2
    found = index.search(artefact, queries, top_k=5, allowed=mask)
    truth, _ = brute_force(artefact, queries)
    due = np.sort(np.where(mask, truth, np.inf), axis=1)[:, :5]
    np.testing.assert_allclose(found.distances, due, rtol=1e-4, atol=1e-4)
    assert mask[found.rows].all()


def test_saved_lists_give_the_same_answer(artefact, queries, tmp_path):
    codec, codes, ids, *_ = artefact
    index.save(tmp_path, codec, codes, ids=ids, lists=artefact.lists)
    loaded = index.load(tmp_path)
    for _ in range(2):  # the second search finds the codes on the device
        again = index.search(loaded, queries, top_k=5, num_probes=2, engine="own")
        for a, b in zip(again, index.search(artefact, queries, top_k=5, num_probes=2), strict=True):
            np.testing.assert_array_equal(a, b)


BOOKS = np.random.default_rng(0).normal(size=(4, 16, D // 4)).astype(np.float32)


PRODUCT = ProductCodec(BOOKS)


def saved(folder, x, *, codec=PRODUCT, **columns):
    """Saves vectors as an index of their codes; returns its folder."""
    index.save(folder, codec, np.asarray(codec.encode(x)), **columns)
    return folder


def test_a_saved_index_is_sorted_into_lists(vectors, tmp_path):
    x, names = vectors[:50].astype(np.float16), [f"{row}.png" for row in range(50)]
    columns = {"ids": names, "labels": np.arange(50) % 2, "classes": ["a", "b"], "root": "/photos"}
    flat = saved(tmp_path / "flat", x, vectors=x, **columns)
    index.list_index(flat, tmp_path / "listed", num_lists=3, keep_vectors=True)
    found = index.load(tmp_path / "listed")
    due = index.build_lists(
        jax.random.key(0), x, num_lists=3, num_codebooks=4, num_codewords=16, ids=names
    )
    np.testing.assert_array_equal(found.codes, due.codes)
    np.testing.assert_array_equal(found.lists.starts, due.lists.starts)
    assert found.ids.tolist() == due.ids.tolist()
    # Each item keeps what belongs to it.
    rows = [names.index(each) for each in found.ids]
    np.testing.assert_array_equal(found.vectors, x[rows])
    np.testing.assert_array_equal(found.labels, np.arange(50)[rows] % 2)
    assert (found.manifest["root"], found.manifest["classes"]) == ("/photos", ["a", "b"])
    index.list_index(flat, tmp_path / "listed", num_lists=3)
    assert index.load(tmp_path / "listed").vectors is None


def test_lists_of_other_codes_are_refused(vectors, tmp_path):
    out, x = tmp_path / "listed", vectors[:50]
    with pytest.raises(InputError, match="keeps no vectors, of which lists are made; encode --vec"):
        index.list_index(saved(tmp_path / "a", x), out, num_lists=3)
    turned = ProductCodec(BOOKS, rotation=np.eye(D, dtype=np.float32))
    for codec in (BinaryCodec(8), turned, ProductCodec(BOOKS, metric="ip")):
        other = saved(tmp_path / "b", x[:, : getattr(codec, "num_bits", D)], codec=codec, vectors=x)
        with pytest.raises(InputError, match="lists need product codes without a rotation"):
            index.list_index(other, out, num_lists=3)
    assert not out.exists()


def test_sizes_that_do_not_fit_are_refused(vectors, artefact, queries):
    with pytest.raises(ValueError, match="num_lists must be from 1 to 10 vectors, got 11"):
        index.build_lists(jax.random.key(0), vectors[:10], num_lists=11, num_codebooks=4)
    with pytest.raises(ValueError, match="vectors must be numbers, got NaN in row 0"):
        index.build_lists(jax.random.key(0), np.full((10, 4), np.nan), num_lists=2, num_codebooks=4)
    with pytest.raises(ValueError, match="num_probes must be 1 or more"):
        index.search(artefact, queries, top_k=1, num_probes=0)
    with pytest.raises(ValueError, match="symmetric search takes no inverted lists; leave symm"):
        index.search(artefact, queries, top_k=1, symmetric=True)
    with pytest.raises(ValueError, match="a search of inverted lists takes no mesh; leave mesh"):
        index.search(artefact, queries, top_k=1, mesh=parallel.data_mesh())
