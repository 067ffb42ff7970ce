import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

QUERIES = np.array([[3.0, 4.0], [0.0, -2.0]])
DATABASE = np.array([[4.0, 3.0], [-5.0, 0.0], [0.0, 0.0]])
SIMILAR = np.array([[True, False, True], [False, True, False]])

# Cosines: 24/25, -3/5, 0 and -3/5, 0, 0. Inner products over D = 2: 12, -7.5, 0 and -3, 0, 0.
HAND_MADE = {
    losses.pairwise_cosine: [[0.04**2, 0.4**2, 1.0], [0.4**2, 1.0, 1.0]],
    losses.pairwise_inner_product: [[11.0**2, 6.5**2, 1.0], [2.0**2, 1.0, 1.0]],
}
# The same with every label turned over.
HAND_MADE_TURNED = {
    losses.pairwise_cosine: [[1.96**2, 1.6**2, 1.0], [1.6**2, 1.0, 1.0]],
    losses.pairwise_inner_product: [[13.0**2, 8.5**2, 1.0], [4.0**2, 1.0, 1.0]],
}


@pytest.mark.parametrize("function", HAND_MADE)
def test_values_made_by_hand(function):
    for similar, due in ((SIMILAR, HAND_MADE), (~SIMILAR, HAND_MADE_TURNED)):
        got = function(QUERIES, DATABASE, similar)
        np.testing.assert_allclose(got, due[function], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", HAND_MADE)
def test_two_sides_are_not_exchangeable(function):
    # Exchanging them transposes the result; a loss that mixed up the sides would differ.
    forward = function(QUERIES, DATABASE, SIMILAR)
    backward = function(DATABASE, QUERIES, SIMILAR.T)
    np.testing.assert_allclose(forward, np.transpose(backward), rtol=1e-6)


@pytest.mark.parametrize("function", HAND_MADE)
@pytest.mark.parametrize("encoding", [(0, 1), (-1, 1)])
def test_labels_as_numbers_mean_what_the_papers_mean(function, encoding):
    numbers = np.where(SIMILAR, encoding[1], encoding[0]).astype(np.float32)
    np.testing.assert_array_equal(
        function(QUERIES, DATABASE, numbers), function(QUERIES, DATABASE, SIMILAR)
    )


@pytest.mark.parametrize("length", [1e-25, 1e-4, 1e4, 1e25])
def test_pairwise_cosine_does_not_depend_on_length(length):
    got = losses.pairwise_cosine(QUERIES * length, DATABASE, SIMILAR)
    np.testing.assert_allclose(got, HAND_MADE[losses.pairwise_cosine], rtol=1e-5, atol=1e-7)
    got = losses.pairwise_cosine(QUERIES, DATABASE * length, SIMILAR)
    np.testing.assert_allclose(got, HAND_MADE[losses.pairwise_cosine], rtol=1e-5, atol=1e-7)


def test_pairwise_cosine_gradient_is_the_papers():
    # dl/dz_i = -2 (s_ij - c_ij) (d_j / |d_j| - c_ij q_i / |q_i|) / |q_i|, for q = (3, 4) and
    # d = (4, 3): c = 24/25, s = 1, so -0.08 ((0.8, 0.6) - 0.96 (0.6, 0.8)) / 5.
    gradient = jax.grad(lambda q: losses.pairwise_cosine(q, DATABASE[:1], SIMILAR[:1, :1])[0, 0])
    got = gradient(jnp.asarray(QUERIES[:1], jnp.float32))
    np.testing.assert_allclose(got, [[-0.016 * 0.224, 0.016 * 0.168]], rtol=1e-4)
    at_length = gradient(jnp.asarray(QUERIES[:1] * 1e4, jnp.float32))
    np.testing.assert_allclose(at_length, got * 1e-4, rtol=1e-4)
