import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.losses import memory

X = np.arange(8, dtype=np.float32).reshape(4, 2)
IDS = np.array([5, 6, 7, 8], np.int32)


def assert_holds(state, x, labels, mask):
    for got, due in zip(state, (x, labels, mask), strict=True):
        np.testing.assert_array_equal(got, due)


def test_rows_are_replaced_oldest_first():
    state = memory.init(X, IDS, num_rows=3)
    assert_holds(state, np.zeros((3, 2)), [0, 0, 0], [False, False, False])
    state = memory.push(state, X[:2], IDS[:2])
    assert_holds(state, [[0, 0], [0, 1], [2, 3]], [0, 5, 6], [False, True, True])
    state = memory.push(state, X[2:], IDS[2:])
    assert_holds(state, X[1:], IDS[1:], [True, True, True])


def test_of_a_batch_longer_than_the_memory_the_last_rows_are_kept():
    state = memory.push(memory.init(X, IDS, num_rows=3), X, IDS)
    assert_holds(state, X[1:], IDS[1:], [True, True, True])


def test_no_gradient_reaches_pushed_rows():
    def loss(x):
        return jnp.sum(memory.push(memory.init(X, IDS, num_rows=5), x, IDS).x)

    np.testing.assert_array_equal(jax.grad(loss)(X), np.zeros((4, 2)))


def test_the_memory_keeps_its_types():
    state = memory.init(jnp.asarray(X, jnp.bfloat16), np.zeros((4, 3), bool), num_rows=6)
    state = memory.push(state, X, np.ones((4, 3), np.int32))
    assert [part.dtype for part in state] == [jnp.bfloat16, bool, bool]


def test_an_empty_memory_leaves_a_loss_as_it_is(rng):
    x, similar = np.float32(rng.normal(size=(4, 2))), IDS[:, None] % 2 == IDS % 2
    state = memory.init(x, IDS, num_rows=3)
    keys = jnp.concatenate((x, state.x))
    positives = np.pad(similar, ((0, 0), (0, 3)))
    ignored = np.concatenate((np.eye(4, dtype=bool), np.tile(~state.mask, (4, 1))), axis=1)
    got = losses.supervised_contrastive(x, keys, positives, ignored, temperature=0.2)
    due = losses.supervised_contrastive(x, x, similar, np.eye(4, dtype=bool), temperature=0.2)
    np.testing.assert_allclose(got, due, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memory.init(X, IDS, num_rows=0), "num_rows must be at least 1, got 0"),
        (lambda: memory.init(X, IDS[:3], num_rows=2), r"labels must have shape \(4,\), got \(3,\)"),
        (
            lambda: memory.push(memory.init(X, IDS, num_rows=2), X[:, :1], IDS),
            r"x must have shape \[B, 2\], got \(4, 1\)",
        ),
        (
            lambda: memory.push(memory.init(X, IDS, num_rows=2), X, IDS[:, None]),
            r"labels must have shape \(4,\), got \(4, 1\)",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
