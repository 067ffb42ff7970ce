import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import labels

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
