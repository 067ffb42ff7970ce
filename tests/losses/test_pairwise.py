import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

QUERIES = np.array([[3.0, 4.0], [0.0, -2.0]])
DATABASE = np.array([[4.0, 3.0], [-5.0, 0.0], [0.0, 0.0]])
SIMILAR = np.array([[True, False, True], [False, True, False]])

# Cosines: 24/25, -3/5, 0 and -3/5, 0, 0. Inner products over D = 2: 12, -7.5, 0 and -3, 0, 0.
# Squared distances: 2, 80, 25 and 41, 29, 4. D/2 = 1 times 1 - cosine: 0.04, 1.6, 1 and 1.6, 1, 1.
OPTIONS = {losses.pairwise_contrastive: {"margin": 50.0}, losses.pairwise_cauchy: {"gamma": 4.0}}
LOG_5_4, LOG_5 = 0.2231436, 1.6094379
HAND_MADE = {
    losses.pairwise_cosine: [[0.04**2, 0.4**2, 1.0], [0.4**2, 1.0, 1.0]],
    losses.pairwise_inner_product: [[11.0**2, 6.5**2, 1.0], [2.0**2, 1.0, 1.0]],
    # softplus of -12, -7.5, 0 and -3, 0, 0
    losses.pairwise_likelihood: [
        [6.14419e-6, 5.529317e-4, 0.6931472],
        [0.0485874] + [0.6931472] * 2,
    ],
    losses.pairwise_contrastive: [[1.0, 0.0, 12.5], [4.5, 14.5, 23.0]],
    # log of 1.01, 3.5, 1.25 and 3.5, 1.25, 5
    losses.pairwise_cauchy: [[0.00995033, 1.2527630, LOG_5_4], [1.2527630, LOG_5_4, LOG_5]],
}
# The same with every label turned over.
HAND_MADE_TURNED = {
    losses.pairwise_cosine: [[1.96**2, 1.6**2, 1.0], [1.6**2, 1.0, 1.0]],
    losses.pairwise_inner_product: [[13.0**2, 8.5**2, 1.0], [4.0**2, 1.0, 1.0]],
    losses.pairwise_likelihood: [
        [12.00000614, 7.5005529, 0.6931472],
        [3.0485874] + [0.6931472] * 2,
    ],
    losses.pairwise_contrastive: [[24.0, 40.0, 12.5], [20.5, 10.5, 2.0]],
    # log of 101, 1.4, 5 and 1.4, 5, 1.25
    losses.pairwise_cauchy: [[4.6151205, 0.3364722, LOG_5], [0.3364722, LOG_5, LOG_5_4]],
}


@pytest.mark.parametrize("function", HAND_MADE)
def test_values_made_by_hand(function):
    for similar, due in ((SIMILAR, HAND_MADE), (~SIMILAR, HAND_MADE_TURNED)):
        got = function(QUERIES, DATABASE, similar, **OPTIONS.get(function, {}))
        np.testing.assert_allclose(got, due[function], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", HAND_MADE)
def test_two_sides_are_not_exchangeable(function):
    # Exchanging them transposes the result; a loss that mixed up the sides would differ.
    options = OPTIONS.get(function, {})
    forward = function(QUERIES, DATABASE, SIMILAR, **options)
    backward = function(DATABASE, QUERIES, SIMILAR.T, **options)
    np.testing.assert_allclose(forward, np.transpose(backward), rtol=1e-6)


@pytest.mark.parametrize("function", HAND_MADE)
@pytest.mark.parametrize("encoding", [(0, 1), (-1, 1)])
def test_labels_as_numbers_mean_what_the_papers_mean(function, encoding):
    numbers = np.where(SIMILAR, encoding[1], encoding[0]).astype(np.float32)
    options = OPTIONS.get(function, {})
    np.testing.assert_array_equal(
        function(QUERIES, DATABASE, numbers, **options),
        function(QUERIES, DATABASE, SIMILAR, **options),
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


def test_pairwise_cosine_match_made_by_hand():
    # Cosines of the features: 1, 0, -0.6 and 0, 0, 0.
    features = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    others = np.array([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0], [-3.0, 0.0, 4.0]], np.float32)
    got = losses.pairwise_cosine_match(QUERIES, DATABASE, features, others)
    due = [[0.04**2, 0.6**2, 0.6**2], [0.6**2, 0.0, 0.0]]
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(losses.pairwise_likelihood, scale=0.1),
        functools.partial(losses.pairwise_cauchy, gamma=4.0),
    ],
)
def test_probabilities_of_both_labels_add_to_one(function):
    both = [np.exp(-function(QUERIES, DATABASE, similar)) for similar in (SIMILAR, ~SIMILAR)]
    np.testing.assert_allclose(both[0] + both[1], np.ones((2, 3)), rtol=1e-5)


def test_pairwise_likelihood_keeps_small_losses():
    # log(1 + e^t) - t would be 0 in float32 from t = 17 on; it is e^-t.
    got = losses.pairwise_likelihood(np.array([[40.0]]), np.array([[1.0]]), np.array([[True]]))
    np.testing.assert_allclose(got, [[np.exp(-20.0)]], rtol=1e-5)


def test_pairwise_contrastive_lets_go_of_dissimilar_pairs_beyond_the_margin():
    def total(x, margin):
        return losses.pairwise_contrastive(x, DATABASE[1:2], SIMILAR[:1, 1:2], margin=margin)[0, 0]

    x = jnp.asarray(QUERIES[:1], jnp.float32)  # at squared distance 80, difference (8, 4)
    np.testing.assert_array_equal(jax.grad(total)(x, 79.0), [[0.0, 0.0]])
    np.testing.assert_allclose(jax.grad(total)(x, 81.0), [[-8.0, -4.0]], rtol=1e-5)


@pytest.mark.parametrize("length", [1e-25, 1e25])
def test_pairwise_cauchy_does_not_depend_on_length(length):
    got = losses.pairwise_cauchy(QUERIES * length, DATABASE, SIMILAR, gamma=4.0)
    np.testing.assert_allclose(got, HAND_MADE[losses.pairwise_cauchy], rtol=1e-5)


def test_pairwise_cauchy_bounds_a_dissimilar_pair_of_one_direction():
    def loss(x):
        return losses.pairwise_cauchy(x, x, jnp.zeros((2, 2)), gamma=4.0)[0, 0]

    x = jnp.asarray(QUERIES, jnp.float32)
    assert loss(x) == pytest.approx(np.log(1 + 4e6), rel=1e-6)
    np.testing.assert_array_equal(jax.grad(loss)(x), np.zeros((2, 2)))


def test_pair_weights_made_by_hand():
    # 3 of 6 pairs are similar, then 2 of 6: 6/2 = 3 for those and 6/4 = 1.5 for the others.
    got = losses.pair_weights(SIMILAR, similar_fraction=np.mean(SIMILAR))
    np.testing.assert_allclose(got, np.full((2, 3), 2.0))
    fewer = SIMILAR & [[True], [False]]
    got = losses.pair_weights(fewer, similar_fraction=1 / 3)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [[3.0, 1.5, 3.0], [1.5, 1.5, 1.5]], rtol=1e-6)
    jaccard = np.array([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
    got = losses.pair_weights(fewer, jaccard, similar_fraction=1 / 3)
    np.testing.assert_allclose(got, [[1.5, 1.5, 3.0], [1.5, 1.5, 1.5]], rtol=1e-6)


def test_pair_weights_of_one_kind_of_pair_are_one():
    for similar in (np.ones((2, 3), bool), np.zeros((2, 3), bool)):
        got = losses.pair_weights(similar, similar_fraction=np.mean(similar))
        np.testing.assert_array_equal(got, np.ones((2, 3)))


def test_pair_weights_on_eight_devices_equal_one(rng):
    similar = rng.uniform(size=(16, 24)) < 0.2
    due = losses.pair_weights(similar, similar_fraction=np.mean(similar))

    def on_each_device(similar):
        fraction = jax.lax.pmean(jnp.mean(similar), "data")
        return losses.pair_weights(similar, similar_fraction=fraction)

    got = jax.pmap(on_each_device, axis_name="data")(similar.reshape(8, 2, 24))
    np.testing.assert_allclose(got.reshape(16, 24), due, rtol=1e-5)
    np.testing.assert_allclose(np.sum(due[similar]), np.sum(due[~similar]), rtol=1e-5)


def test_pair_weights_refuse_other_shapes_by_name():
    with pytest.raises(ValueError, match=r"^similar must have shape \[Q, N\], got \(3,\)"):
        losses.pair_weights(SIMILAR[0], similar_fraction=0.5)
    with pytest.raises(ValueError, match=r"^jaccard must have shape \(2, 3\), got \(3, 2\)"):
        losses.pair_weights(SIMILAR, np.ones((3, 2)), similar_fraction=0.5)
