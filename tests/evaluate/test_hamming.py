"""Counts by Hamming distance, against a loop over pairs."""

import jax
import numpy as np
import pytest

from quantjax import metrics
from quantjax.evaluate import hamming_average_precision, hamming_counts, relevance
from quantjax.run import parallel


def draw(rng, *, num_bits, queries=67, items=205, classes=4):
    def packed(n):
        return np.packbits(rng.random((n, num_bits)) < 0.5, axis=1, bitorder="little")

    return (
        packed(queries),
        packed(items),
        rng.integers(0, classes, queries),
        rng.integers(0, classes, items),
    )


def by_pairs(query_codes, database_codes, grades, num_bits, num_grades):
    bits = [np.unpackbits(codes, axis=1).astype(int) for codes in (query_codes, database_codes)]
    distances = np.sum(bits[0][:, None] != bits[1], axis=-1)
    counts = np.zeros((len(query_codes), num_bits + 1, num_grades), int)
    for (query, item), distance in np.ndenumerate(distances):
        counts[query, distance, min(grades[query, item], num_grades - 1)] += 1
    return counts, distances


@pytest.mark.parametrize("num_bits", [5, 16, 40])
@pytest.mark.by_default("5", "40")
def test_counts_equal_a_loop_over_pairs(rng, num_bits):
    query, database, query_ids, ids = draw(rng, num_bits=num_bits)
    grades = (query_ids[:, None] == ids).astype(int)
    due, _ = by_pairs(query, database, grades, num_bits, 2)
    labels = relevance(query_ids, ids)
    for mesh in (None, parallel.data_mesh()):
        tiles = hamming_counts(query, database, labels, num_bits=num_bits, mesh=mesh)
        np.testing.assert_array_equal(np.concatenate(list(tiles)), due)


@pytest.mark.parametrize("num_grades", [2, 3, None])
def test_counts_by_number_of_shared_labels(rng, num_grades):
    query, database, _, _ = draw(rng, num_bits=16)
    several = rng.random((67, 5)) < 0.5, rng.random((205, 5)) < 0.5
    labels = relevance(*several)
    grades = several[0].astype(int) @ several[1].T.astype(int)
    assert labels.num_grades >= grades.max() + 1
    most = labels.num_grades if num_grades is None else num_grades
    due, _ = by_pairs(query, database, grades, 16, most)
    got = np.concatenate(list(hamming_counts(query, database, labels, num_grades=num_grades)))
    np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize("options", [{}, {"top_k": 30, "denominator": "hits", "ties": "worst"}])
def test_average_precision_equals_that_of_the_distances(rng, options):
    query, database, query_ids, ids = draw(rng, num_bits=16)
    relevant = query_ids[:, None] == ids
    _, distances = by_pairs(query, database, relevant.astype(int), 16, 2)
    due = metrics.average_precision(distances, relevant, **options)
    got = hamming_average_precision(query, database, query_ids, ids, **options)
    np.testing.assert_allclose(got, due, atol=2e-6)
    assert got.dtype == np.float64
    on_all = hamming_average_precision(
        query, database, query_ids, ids, mesh=parallel.data_mesh(jax.devices()[:4]), **options
    )
    np.testing.assert_array_equal(on_all, got)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_codes": np.zeros((3, 2))}, r"query_codes must be packed codes .*got float64"),
        ({"database_codes": np.zeros((0, 2), np.uint8)}, r"database_codes must be .*\(0, 2\)"),
        ({"database_codes": np.zeros((5, 3), np.uint8)}, r"uint8 of shape \[N, 2\]"),
        ({"query_codes": np.full((3, 2), 255, np.uint8)}, "11 bits must have zeros above them"),
        ({"query_labels": np.zeros(4, int)}, "query_labels must be of 3 items, got 4"),
        ({"database_labels": np.zeros(4, int)}, "database_labels must be of 5 items, got 4"),
        ({"num_bits": 0}, "num_bits must be an integer of at least 1, got 0"),
        ({"num_bits": "4"}, "num_bits must be an integer of at least 1, got '4'"),
        ({"database_codes": np.zeros((5, 0), np.uint8)}, r"one item and byte .*\(5, 0\)"),
        ({"denominator": "mine"}, "denominator must be one of"),
        ({"ties": "storage"}, "ties must be one of"),
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, message):
    arguments = {
        "query_codes": np.zeros((3, 2), np.uint8),
        "database_codes": np.zeros((5, 2), np.uint8),
        "query_labels": np.zeros(3, int),
        "database_labels": np.zeros(5, int),
        "num_bits": 11,
        **change,
    }
    data = ("query_codes", "database_codes", "query_labels", "database_labels")
    with pytest.raises(ValueError, match=message):
        hamming_average_precision(*[arguments.pop(name) for name in data], **arguments)
