import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import data, evaluate, labels, losses
from quantjax.data import class_counts
from quantjax.errors import InputError

QUERIES = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
DATABASE = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]])
DUE = [
    [True, False, False, False, True],
    [False, True, False, True, True],
    [False, False, False, False, False],  # an item without labels resembles nothing
]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32", "bfloat16"])
def test_share_label_made_by_hand(dtype):
    for function in (labels.share_label, jax.jit(labels.share_label)):
        got = function(jnp.asarray(QUERIES, dtype), jnp.asarray(DATABASE, dtype))
        assert got.dtype == bool
        np.testing.assert_array_equal(got, DUE)


def test_share_label_equals_sets_that_meet(rng):
    one, other = rng.uniform(size=(16, 300)) < 0.05, rng.uniform(size=(24, 300)) < 0.05
    due = np.zeros((16, 24), bool)
    for i, j in itertools.product(range(16), range(24)):
        due[i, j] = bool(set(np.flatnonzero(one[i])) & set(np.flatnonzero(other[j])))
    assert 0.2 < due.mean() < 0.8
    np.testing.assert_array_equal(labels.share_label(one, other), due)


def test_hundreds_of_shared_labels_do_not_overflow():
    many = jnp.ones((2, 512), jnp.uint8)
    np.testing.assert_array_equal(labels.share_label(many, many), np.ones((2, 2), bool))


@pytest.mark.parametrize(
    ("one", "other"), [((3, 4), (5, 3)), ((3,), (5, 3)), ((3, 4), (4,)), ((1, 3, 4), (5, 4))]
)
def test_other_shapes_are_refused(one, other):
    with pytest.raises(ValueError, match="queries and database must be multi-hot") as caught:
        labels.share_label(np.zeros(one), np.zeros(other))
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


# Shared over either: of {0}, {1, 2} and {} with {0, 3}, {2}, {3}, {1, 2} and {0, 1, 2, 3}.
JACCARD = [[1 / 2, 0, 0, 0, 1 / 4], [0, 1 / 2, 0, 1, 2 / 4], [0, 0, 0, 0, 0]]
COSINE = [[1 / 2**0.5, 0, 0, 0, 1 / 2], [0, 1 / 2**0.5, 0, 1, 2 / 8**0.5], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("function", "due"), [(labels.jaccard_similarity, JACCARD), (labels.cosine_similarity, COSINE)]
)
def test_soft_similarity_made_by_hand(function, due, dtype):
    for f in (function, jax.jit(function)):
        got = f(jnp.asarray(QUERIES, dtype), jnp.asarray(DATABASE, dtype))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, due, rtol=1e-6)


@pytest.mark.parametrize("function", [labels.jaccard_similarity, labels.cosine_similarity])
def test_soft_similarity_is_one_of_equal_labels_and_positive_where_one_is_shared(function, rng):
    one, other = rng.uniform(size=(16, 300)) < 0.05, rng.uniform(size=(24, 300)) < 0.05
    np.testing.assert_array_equal(function(one, other) > 0, labels.share_label(one, other))
    np.testing.assert_array_equal(np.diagonal(function(one, one)), np.ones(16))


@pytest.mark.parametrize("function", [labels.jaccard_similarity, labels.cosine_similarity])
def test_soft_similarity_refuses_other_shapes(function):
    with pytest.raises(ValueError, match=r"queries and database must .*\(3, 4\) and \(5, 3\)"):
        function(np.zeros((3, 4)), np.zeros((5, 3)))


def test_same_class_made_by_hand():
    for function in (labels.same_class, jax.jit(labels.same_class)):
        got = function(np.array([2, 0, 300]), np.array([0, 2, 44, 2]))
        assert got.dtype == bool
        np.testing.assert_array_equal(
            got, [[False, True, False, True], [True, False, False, False], [False] * 4]
        )


@pytest.mark.parametrize("ids", [np.zeros((3, 4), int), np.zeros(3)])
def test_same_class_refuses_what_is_no_vector_of_ids(ids):
    with pytest.raises(ValueError, match="queries must be integer class ids"):
        labels.same_class(ids, np.zeros(2, int))
    with pytest.raises(ValueError, match="database must be integer class ids"):
        labels.same_class(np.zeros(2, int), ids)


def test_multi_hot_made_by_hand():
    for function in (labels.multi_hot, jax.jit(labels.multi_hot, static_argnums=1)):
        got = function(np.array([2, 0, -1]), 3)
        assert got.dtype == jnp.uint8
        np.testing.assert_array_equal(got, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])
        got = function(np.array([[2, 0], [1, -1], [1, 1], [-1, 3]]), 3)
        np.testing.assert_array_equal(got, [[1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("ids", [np.zeros(3), np.zeros((2, 3, 4), int)])
def test_multi_hot_refuses_what_is_no_class_id(ids):
    with pytest.raises(ValueError, match="class_ids must be integers") as caught:
        labels.multi_hot(ids, 5)
    assert str(ids.shape) in str(caught.value)


# One door: whatever reads labels refuses the same ones, in one line that says what takes them.
TABLE = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0]], np.uint8)
IDS = np.array([2, 0, 1, 2])
X = np.eye(4, 3, dtype=np.float32)
READERS_OF_TABLES = {
    "share_label": lambda y: labels.share_label(y, TABLE),
    "share_label, database": lambda y: labels.share_label(TABLE, y),
    "jaccard_similarity": lambda y: labels.jaccard_similarity(y, TABLE),
    "cosine_similarity": lambda y: labels.cosine_similarity(TABLE, y),
    "relevance": lambda y: evaluate.relevance(y, TABLE),
    "relevance, database": lambda y: evaluate.relevance(TABLE, y),
    "from_arrays": lambda y: data.from_arrays(np.zeros((4, 2, 2), np.uint8), y),
    "check_labels": data.check_labels,
    "num_labels": class_counts.num_labels,
    "rows_per_class": lambda y: class_counts.rows_per_class(y, 3),
    "num_labels_among": lambda y: class_counts.num_labels_among(y, np.ones(3, bool)),
    "class_ids": class_counts.class_ids,
    "orthogonal_cosine": lambda y: losses.orthogonal_cosine(X, y, X[:3]),
    "additive_angular_margin": lambda y: losses.additive_angular_margin(X, y, X[:3]),
    "proxy_anchor": lambda y: losses.proxy_anchor(X, y, X[:3]),
    "greedy_hash": lambda y: losses.greedy_hash(X, y, X[:3]),
    "class_centres": lambda y: losses.class_centres(jax.random.key(0), y, X[:3]),
    "group_hard": lambda y: losses.selection.group_hard(
        jax.random.key(0), X, y, num_groups=1, margin=1.0
    ),
}
READERS_OF_IDS = {
    "same_class": lambda ids: labels.same_class(ids, IDS),
    "same_class, database": lambda ids: labels.same_class(IDS, ids),
    "relevance": lambda ids: evaluate.relevance(ids, IDS),
    "relevance, database": lambda ids: evaluate.relevance(IDS, ids),
    "from_arrays": lambda ids: data.from_arrays(np.zeros((4, 2, 2), np.uint8), ids),
    "check_labels": data.check_labels,
    "num_labels": class_counts.num_labels,
    "rows_per_class": lambda ids: class_counts.rows_per_class(ids, 3),
    "num_labels_among": lambda ids: class_counts.num_labels_among(ids, np.ones(3, bool)),
    "class_ids": class_counts.class_ids,
}
NO_TABLES = {
    "minus and plus one": 2 * TABLE.astype(int) - 1,
    "minus and plus one, real": 2.0 * TABLE - 1,
    "soft": TABLE * 0.25,
    "counts": TABLE * 2,
    "not a number": np.where(TABLE, np.nan, 0),
    "an array of JAX": jnp.asarray(TABLE * 3.0),
    "one column": IDS[:, None],
    "three axes": TABLE[None],
}
NO_IDS = {
    "minus one": np.array([0, -1, 2, 1]),
    "an array of JAX": jnp.array([0, -1, 2, 1]),
    "real": IDS * 1.0,
    "one column": IDS[:, None],
    "three axes": IDS[:, None, None],
}


def refusal(reader, wrong):
    with pytest.raises(InputError) as caught:
        reader(wrong)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrong", NO_TABLES.values(), ids=NO_TABLES.keys())
@pytest.mark.parametrize("reader", READERS_OF_TABLES.values(), ids=READERS_OF_TABLES.keys())
def test_every_reader_refuses_labels_that_are_not_zeros_and_ones(reader, wrong):
    reader(np.eye(3)[IDS] if reader in (class_counts.class_ids,) else TABLE)
    refusal(reader, wrong)


@pytest.mark.parametrize("wrong", NO_IDS.values(), ids=NO_IDS.keys())
@pytest.mark.parametrize("reader", READERS_OF_IDS.values(), ids=READERS_OF_IDS.keys())
def test_every_reader_refuses_what_is_no_class_id(reader, wrong):
    reader(IDS)
    refusal(reader, wrong)


@pytest.mark.parametrize(
    ("reader", "wrong", "advice"),
    [
        (labels.share_label, IDS, "labels.same_class compares class ids"),
        (labels.share_label, IDS[:, None], r"pass queries\[:, 0\] as class ids"),
        (labels.share_label, 2 * TABLE.astype(int) - 1, "pass queries > 0"),
        (labels.jaccard_similarity, 2.0 * TABLE - 1, "pass queries > 0"),
        (labels.share_label, TABLE + 2, "labels.multi_hot makes zeros and ones of class ids"),
        (labels.same_class, TABLE.astype(int), "labels.share_label compares one-hot and multi-hot"),
        (labels.same_class, IDS[:, None], r"pass queries\[:, 0\]"),
        (labels.same_class, np.array([1, -1]), "labels.multi_hot takes ids padded with -1"),
        (labels.same_class, np.array([2**32 + 7]), "up to 2147483647, got 4294967303 .*; renumber"),
        (labels.same_class, np.array([2**32 + 7]), "evaluate.relevance takes larger ones"),
        (labels.same_class, ["a", "b"], "with np.unique.queries, return_inverse=True"),
        (labels.same_class, np.array([2**63], np.uint64), r"from 0 to 2\^63 - 1, got 9223372"),
        (evaluate.relevance, 2 * TABLE.astype(int) - 1, "pass query_labels > 0"),
        (evaluate.relevance, ["a", "b"], "with np.unique.query_labels, return_inverse=True"),
        (evaluate.relevance, np.array([1, -1]), "labels.multi_hot takes ids padded with -1"),
    ],
)
def test_a_refusal_names_what_takes_the_labels(reader, wrong, advice):
    assert re.search(advice, refusal(lambda y: reader(y, y), wrong))


@pytest.mark.parametrize(
    ("class_ids", "message"),
    [
        (TABLE, r"got zeros and ones in shape \(4, 3\), which are multi-hot labels already"),
        (np.array([2**32 + 1]), "class ids that JAX holds, up to 2147483647, got 4294967297"),
        (["a"], "class_ids must be integers of shape"),
    ],
)
def test_multi_hot_refuses_what_it_would_mistake(class_ids, message):
    assert re.search(message, refusal(lambda ids: labels.multi_hot(ids, 3), class_ids))


def test_large_ids_are_told_apart():
    large = np.array([2**31 - 1, 7, 2**31 - 8])
    np.testing.assert_array_equal(labels.same_class(large, large), np.eye(3, dtype=bool))
    with jax.enable_x64(True):
        larger = np.array([2**53 + 1, 2**53, 2**32 + 7, 7])
        for one in (larger, larger.astype(np.uint64)):
            np.testing.assert_array_equal(labels.same_class(one, larger), np.eye(4, dtype=bool))
        held = jnp.asarray(larger)
    refusal(lambda ids: labels.same_class(ids, ids), held)
    grades = evaluate.relevance(larger, larger).grades(slice(None))
    np.testing.assert_array_equal(grades.sum(axis=1), [1, 1, 1, 1])


def test_traced_labels_are_checked_by_shape_and_type():
    wrong = 2 * TABLE.astype(int) - 1
    assert jax.jit(labels.share_label)(wrong, wrong).shape == (4, 4)
    for function, given in ((labels.share_label, IDS[:, None]), (labels.same_class, X[0])):
        refusal(jax.jit(lambda y, f=function: f(y, y)), given)


def test_lists_are_labels_too():
    np.testing.assert_array_equal(labels.same_class([3, 1], [1]), [[False], [True]])
    np.testing.assert_array_equal(labels.share_label([[0, 1]], [[1, 1], [1, 0]]), [[True, False]])
    np.testing.assert_array_equal(labels.multi_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
