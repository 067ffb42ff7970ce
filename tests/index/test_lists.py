"""Inverted lists find what brute force finds in the probed lists."""

import jax
import numpy as np
import pytest

from quantjax import evaluate, index
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


def test_sizes_that_do_not_fit_are_refused(vectors, artefact, queries):
    with pytest.raises(ValueError, match="num_lists must be from 1 to 10 vectors, got 11"):
        index.build_lists(jax.random.key(0), vectors[:10], num_lists=11, num_codebooks=4)
    with pytest.raises(ValueError, match="num_probes must be 1 or more"):
        index.search(artefact, queries, top_k=1, num_probes=0)
    with pytest.raises(ValueError, match="symmetric search takes no inverted lists; leave symm"):
        index.search(artefact, queries, top_k=1, symmetric=True)
    with pytest.raises(ValueError, match="a search of inverted lists takes no mesh; leave mesh"):
        index.search(artefact, queries, top_k=1, mesh=parallel.data_mesh())
