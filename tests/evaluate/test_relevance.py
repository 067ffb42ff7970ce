"""Labels of every kind give the same grades; what is none of them is refused."""

import numpy as np
import pytest

from quantjax.evaluate import relevance


def all_grades(labels):
    return labels.grades(slice(None))[:, labels.database]


def test_class_ids_and_one_hot_agree_in_every_combination(rng):
    ids = rng.integers(0, 5, 20), rng.integers(0, 5, 30)
    one_hot = [np.eye(5, dtype=np.uint8)[side] for side in ids]
    due = (ids[0][:, None] == ids[1]).astype(int)
    for query in (ids[0], one_hot[0], one_hot[0].astype(bool), one_hot[0].astype(float)):
        for database in (ids[1], one_hot[1]):
            np.testing.assert_array_equal(all_grades(relevance(query, database)), due)


def test_grades_count_shared_labels(rng):
    several = rng.random((20, 12)) < 0.4, rng.random((30, 12)) < 0.4
    labels = relevance(*several)
    due = several[0].astype(int) @ several[1].T.astype(int)
    np.testing.assert_array_equal(all_grades(labels), due)
    np.testing.assert_array_equal(
        labels.grades(np.array([3, 1])), labels.grades(slice(None))[[3, 1]]
    )
    assert labels.num_grades == 1 + min(several[0].sum(1).max(), several[1].sum(1).max())


@pytest.mark.parametrize("most", [40, 10**9])
def test_ids_of_any_size_have_as_many_patterns_as_values(rng, most):
    ids = rng.integers(0, most, 200)
    labels = relevance(ids[:10], ids)
    np.testing.assert_array_equal(labels.patterns[labels.database], ids)
    np.testing.assert_array_equal(labels.patterns, np.unique(ids))


def test_patterns_are_the_distinct_rows(rng):
    rows = rng.random((300, 3)) < 0.5
    labels = relevance(rows, rows)
    assert len(labels.patterns) == 8
    np.testing.assert_array_equal(labels.patterns[labels.database], rows)


def test_the_digest_tells_queries_apart(rng):
    ids = rng.integers(0, 5, 20)
    sides = (ids, ids[::-1], ids[:-1], np.eye(6)[ids] + np.eye(6)[5])
    digests = [relevance(side, ids).digest("") for side in sides[:3]]
    digests += [relevance(sides[3], np.eye(6)[ids]).digest(""), relevance(ids, ids[:3]).digest("")]
    digests += [relevance(ids, ids).digest("another split")]
    assert len(set(digests)) == 6
    assert relevance(ids, ids[::-1]).digest("") == digests[0]  # items have no order
    assert relevance(np.eye(5)[ids], np.eye(5)[ids]).digest("") == digests[0]


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        (np.zeros((2, 3, 1)), np.zeros(4, int), r"query_labels must be class ids .*\(2, 3, 1\)"),
        (np.zeros(2), np.zeros(4, int), r"query_labels must be class ids .*float64 \(2,\)"),
        (np.zeros(2, int), np.array(["a"]), r"database_labels must be class ids .*<U1 \(1,\)"),
        (np.zeros(2, int), -np.ones(4, int), "database_labels must be class ids from 0 to"),
        (np.zeros(2, int), np.full(4, 2**63, np.uint64), r"from 0 to 2\^63 - 1, got 9223372"),
        ([[1, 0], [1]], np.zeros(4, int), "query_labels must be .*rows of several lengths"),
        (np.zeros((2, 3)), np.full((4, 3), 2), r"database_labels .* other values in shape \(4, 3"),
        (np.full((2, 3), np.nan), np.zeros((4, 3)), "query_labels .* other values"),
        (np.zeros((2, 1)), np.zeros(4, int), r"pass query_labels\[:, 0\]"),
        (np.zeros((2, 3)), np.zeros((4, 2)), r"3 classes, .* shapes \(2, 3\) and \(4, 2\)"),
        (np.zeros((2, 3)), np.array([0, 3]), "database_labels .* hold class 3, .* have shape"),
    ],
)
def test_other_labels_are_refused(query, database, message):
    with pytest.raises(ValueError, match=message):
        relevance(query, database)
