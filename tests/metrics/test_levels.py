import jax.numpy as jnp
import numpy as np

from quantjax.metrics.levels import counts_from_distances, levels_from_counts


def test_equal_distances_share_a_level():
    distances = jnp.array([[0.5, -0.0, 0.5, jnp.inf, 0.0, -jnp.inf, jnp.inf]])
    relevant = jnp.array([[True, False, True, False, True, False, True]])
    counts = np.asarray(counts_from_distances(distances, relevant)[0])
    np.testing.assert_array_equal(counts[counts[:, 0] > 0], [[1, 0], [2, 1], [2, 2], [2, 1]])
    assert counts.shape == (7, 2)


def test_levels_hold_what_lies_strictly_nearer():
    levels = levels_from_counts(np.array([[[1, 1], [0, 0], [3, 2], [2, 1]]]))
    np.testing.assert_array_equal(levels.items_before, [[0, 1, 1, 4]])
    np.testing.assert_array_equal(levels.relevant_before, [[0, 1, 1, 3]])
