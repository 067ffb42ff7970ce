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
