"""True neighbours are those of a float64 loop, near the origin and far from it."""

import jax
import numpy as np
import pytest

from quantjax import index
from quantjax.run import parallel


def brute_force(vectors, queries, metric):
    vectors, queries = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return np.stack([np.square(vectors - query).sum(1) for query in queries])
    products = queries @ vectors.T
    if metric == "ip":
        return -products
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    return 1 - products / np.where(lengths > 0, lengths, 1)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("offset", [0, 1000])
def test_true_neighbours_equal_brute_force(rng, metric, offset):
    vectors = (rng.normal(size=(40_000, 12)) + offset).astype(np.float32)
    queries = (rng.normal(size=(5, 12)) + offset).astype(np.float32)
    truth = brute_force(vectors, queries, metric).astype(np.float32)
    due = np.argsort(truth, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(index.true_neighbours(vectors, queries, 30, metric=metric), due)


def test_equal_vectors_are_ordered_by_row(rng):
    vectors = np.repeat(rng.normal(size=(100, 4)), 400, axis=0).astype(np.float32)
    found = index.true_neighbours(vectors, vectors[[5 * 400, 0]], 450)
    np.testing.assert_array_equal(found[0, :400], 5 * 400 + np.arange(400))
    np.testing.assert_array_equal(found[1, :400], np.arange(400))


def test_a_memory_map_and_several_devices_change_nothing(rng, tmp_path):
    vectors = rng.normal(size=(20_000, 6)).astype(np.float16)
    np.save(tmp_path / "x.npy", vectors)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    queries = rng.normal(size=(300, 6)).astype(np.float32)
    due = index.true_neighbours(vectors, queries, 7)
    np.testing.assert_array_equal(index.true_neighbours(mapped, queries, 7), due)
    mesh = parallel.data_mesh(jax.devices()[:3])
    np.testing.assert_array_equal(index.true_neighbours(mapped, queries, 7, mesh=mesh), due)
    np.testing.assert_array_equal(index.true_neighbours(mapped, queries[7:8], 5), due[7:8, :5])


def test_more_neighbours_than_a_chunk_has_rows(rng):
    vectors = rng.normal(size=(20_000, 3)).astype(np.float32)
    found = index.true_neighbours(vectors, vectors[:1], 20_000)
    truth = brute_force(vectors, vectors[:1], "l2").astype(np.float32)
    np.testing.assert_array_equal(found, np.argsort(truth, axis=1, kind="stable"))


def test_what_has_no_neighbours_is_refused(rng):
    vectors = rng.normal(size=(20_000, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=r"queries must have shape \[Q, 3\], got \(1, 2\)"):
        index.true_neighbours(vectors, vectors[:1, :2], 1)
    with pytest.raises(ValueError, match="k must be from 1 to 20000, the number of vectors, got 0"):
        index.true_neighbours(vectors, vectors[:1], 0)
    vectors[19_000, 1] = np.inf
    with pytest.raises(ValueError, match="vectors must be numbers, got NaN or infinity in row 190"):
        index.true_neighbours(vectors, vectors[:1], 1)
