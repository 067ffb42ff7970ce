import math

import jax
import numpy as np
import pytest

from quantjax import losses

X = np.array([[0.0, 0.5 * math.log(3)], [-1e4, 1e4]], np.float32)


def test_central_similarity_made_by_hand():
    # h = sigmoid(2x) = 1/2 and 3/4.
    up = (math.log(2) + math.log(4 / 3)) / 2
    down = (math.log(2) + math.log(4)) / 2
    got = losses.central_similarity(X[[0, 0]], np.array([[1, 1], [-1, -1]], np.float32))
    np.testing.assert_allclose(got, [up, down], rtol=1e-6)


def test_central_similarity_neither_overflows_nor_is_cut():
    got = losses.central_similarity(X[[1, 1]], np.array([[-1, 1], [-1, -1]], np.float32))
    np.testing.assert_allclose(got, [0, 1e4], rtol=1e-6)


COSINES = [0.96, -0.28, 0.0]  # Of (3, 4) to these.
CENTRES = np.array([[4.0, 3.0], [3.0, -4.0], [0.0, 0.0]], np.float32)


@pytest.mark.parametrize("length", [1, 1e4])
def test_orthogonal_cosine_made_by_hand(length):
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    x = length * np.array([[3.0, 4.0]] * 4, np.float32)
    got = losses.orthogonal_cosine(x, labels, CENTRES, scale=2.0, margin=0.5)
    first = math.log(math.exp(0.92) + math.exp(-0.56) + 1) - 0.92
    second = math.log(math.exp(1.92) + math.exp(-1.56) + 1) + 1.56
    both = math.log(math.exp(0.92) + math.exp(-1.56) + 1) - (0.92 - 1.56) / 2
    np.testing.assert_allclose(got, [first, second, both, 0], rtol=1e-5)


def test_orthogonal_cosine_defaults_are_the_public_codes():
    got = losses.orthogonal_cosine(
        np.array([[3.0, 4.0]], np.float32), np.array([[1, 0, 0]]), CENTRES
    )
    logits = [8 * (0.96 - 0.2), 8 * -0.28, 0]
    due = math.log(sum(map(math.exp, logits))) - logits[0]
    np.testing.assert_allclose(got, [due], rtol=1e-4)


def test_additive_angular_margin_made_by_hand():
    # Angles of 30, 90 and 170 degrees; a margin of 30 degrees leaves 60, 120 and more than 180.
    angles, margin = np.radians([30.0, 90.0, 170.0]), math.pi / 6
    centres = np.float32(np.stack((np.cos(angles), np.sin(angles)), axis=1))
    x = np.array([[2.0, 0.0]] * 4, np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    got = losses.additive_angular_margin(x, labels, centres, scale=2.0, margin=margin)
    cosines = np.cos(angles)
    own = [0.5, -0.5, cosines[2] - margin / 2]
    due = []
    for label in range(3):
        logits = 2 * np.where(np.arange(3) == label, own[label], cosines)
        due.append(math.log(np.exp(logits).sum()) - logits[label])
    np.testing.assert_allclose(got, [*due, 0], rtol=1e-5)


def test_without_a_margin_angles_and_cosines_agree(rng):
    x, centres = np.float32(rng.normal(size=(5, 4))), np.float32(rng.normal(size=(3, 4)))
    labels = np.eye(3, dtype=int)[[0, 1, 2, 2, 1]]
    options = {"scale": 16.0, "margin": 0.0}
    due = losses.orthogonal_cosine(x, labels, centres, **options)
    got = losses.additive_angular_margin(x, labels, centres, **options)
    np.testing.assert_allclose(got, due, rtol=1e-4)


def test_additive_angular_margin_has_a_finite_gradient_at_a_centre():
    x = np.array([[3.0, 4.0], [-3.0, -4.0]], np.float32)
    got = jax.grad(lambda c: losses.additive_angular_margin(x, np.eye(2, dtype=int), c).sum())(x)
    assert np.isfinite(got).all()


def test_proxy_anchor_made_by_hand():
    # Two rows; the second of three classes has none, and the third both.
    x = np.array([[3.0, 4.0], [5.0, 0.0]], np.float32)
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    proxies = np.array([[4.0, 3.0], [0.0, 1.0], [1.0, 0.0]], np.float32)  # .96, .8; .8, 0; .6, 1
    got = losses.proxy_anchor(x, labels, proxies, scale=2.0, margin=0.1)
    first = 1.5 * math.log(1 + math.exp(-2 * 0.86)) + math.log(1 + math.exp(2 * 0.9))
    second = math.log(1 + math.exp(2 * 0.9) + math.exp(2 * 0.1))
    third = 1.5 * math.log(1 + math.exp(-2 * 0.5) + math.exp(-2 * 0.9))
    np.testing.assert_allclose(got, [first, second, third], rtol=1e-5)


def test_proxy_anchor_without_labels_only_pushes():
    x = np.array([[1.0, 0.0]], np.float32)

    def loss(proxies):
        return losses.proxy_anchor(x, np.zeros((1, 1), int), proxies, scale=2.0, margin=0.5)[0]

    value, gradient = jax.value_and_grad(loss)(np.array([[0.0, 1.0]], np.float32))
    np.testing.assert_allclose(value, math.log(1 + math.e), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[2 * math.e / (1 + math.e), 0]], rtol=1e-5, atol=1e-7)


def test_class_wise_margin_made_by_hand():
    x = np.array([[2.0, -0.5, 0.0], [-2.0, 0.5, 3.0]], np.float32)
    targets = np.array([[1, 1, -1], [1, 1, -1]], np.float32)
    np.testing.assert_array_equal(losses.class_wise_margin(x, targets), [2.5, 7.5])
    np.testing.assert_array_equal(losses.class_wise_margin(x, targets, margin=0.25), [1.0, 5.5])


WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], np.float32)
POWERS = np.exp([1.0, -1.0, 0.0])  # Of W sgn(x) for the signs (1, -1).
ONE, TWO = np.array([[1, 0, 0]]), np.array([[1, 1, 0]])


@pytest.mark.parametrize("x", [[3.0, -0.1], [0.0, -1e4], [-0.0, -1e-30]])
def test_greedy_hash_made_by_hand(x):
    x = np.array([x], np.float32)
    total = math.log(POWERS.sum())
    np.testing.assert_allclose(losses.greedy_hash(x, ONE, WEIGHTS), [total - 1], rtol=1e-6)
    np.testing.assert_allclose(losses.greedy_hash(x, TWO, WEIGHTS), [total], rtol=1e-6)
    np.testing.assert_array_equal(losses.greedy_hash(x, 0 * ONE, WEIGHTS), [0])


def test_greedy_hash_gradient_passes_the_sign_unchanged():
    got = jax.grad(lambda x: losses.greedy_hash(x, ONE, WEIGHTS)[0])(
        np.array([[3.0, -0.1]], np.float32)
    )
    due = (POWERS / POWERS.sum() - ONE[0]) @ WEIGHTS
    np.testing.assert_allclose(got, [due], rtol=1e-5)
