import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

# Row by row: ||a - p||^2 and ||a - n||^2 are 5, 5; 2, 18.25; 5, 1.25. <a, p> and <a, n> are 2, 1;
# 5.75, -2; -1.25, 2. Of 2 bits, those of a and p, a and n that differ: 0, 1; 1, 1; 2, 0.
ANCHORS = np.array([[1.0, 2.0], [0.5, -3.0], [-1.0, 0.5]], np.float32)
POSITIVES = np.array([[2.0, 0.0], [-0.5, -2.0], [1.0, -0.5]], np.float32)
NEGATIVES = np.array([[-1.0, 1.0], [2.0, 1.0], [-2.0, 0.0]], np.float32)
TRIPLETS = ANCHORS, POSITIVES, NEGATIVES


@pytest.mark.parametrize(
    ("function", "options", "due"),
    [
        (losses.triplet_margin, {"margin": 1.0}, [1.0, 0.0, 4.75]),
        # t = -1.5, 1.875, -3.625 and, without the half, -1, 5.75, -5.25; softplus(-t).
        (losses.triplet_likelihood, {"margin": 2.0}, [1.7014133, 0.1426748, 3.6513]),
        (
            losses.triplet_likelihood,
            {"margin": 2.0, "scale": 1.0},
            [1.3132617, 0.0031777, 5.2552341],
        ),
        # <a, n> - <a, p> = -1, -7.75, 3.25
        (losses.triplet_sigmoid, {}, [0.2689414, 4.3056e-4, 0.9626731]),
        (losses.triplet_quantization, {"margin": 0.75}, [0.25, 0.75, 1.75]),
        # Halves of 0.25 + 0.5, 0 + 0.53125 and 1.5 + 1.28125.
        (losses.asymmetric_triplet_quantization, {"margin": 0.75}, [0.375, 0.265625, 1.390625]),
        # Gaps of cosines over 2: 0.0654929, 0.6055743, -0.9472136; of codes: 0.5, 0, -1.
        (losses.order_drop, {}, [0.0, 0.6055743, 0.0527864]),
    ],
)
def test_values_made_by_hand(function, options, due):
    np.testing.assert_allclose(function(*TRIPLETS, **options), due, rtol=2e-5, atol=1e-7)


def test_triplet_margin_gradient_is_the_papers():
    # 2 (n - p), 2 (p - a), 2 (a - n) inside the margin, nothing in row 2, which is beyond it.
    def total(*triplets):
        return jnp.sum(losses.triplet_margin(*triplets, margin=1.0))

    active = np.array([[1.0], [0.0], [1.0]])
    due = NEGATIVES - POSITIVES, POSITIVES - ANCHORS, ANCHORS - NEGATIVES
    for got, each in zip(jax.grad(total, argnums=(0, 1, 2))(*TRIPLETS), due, strict=True):
        np.testing.assert_allclose(got, 2 * each * active, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e-3])
def test_the_hinge_has_no_gradient_at_its_corner(offset):
    # ||a - p||^2 = 2 and ||a - n||^2 = 18.25 in row 2.
    def value(anchors):
        rows = anchors, POSITIVES[1:2], NEGATIVES[1:2]
        return losses.triplet_margin(*rows, margin=16.25 + offset)[0]

    assert jnp.any(jax.grad(value)(ANCHORS[1:2])) == (offset > 0)


def test_triplet_likelihood_keeps_its_slope_far_out():
    # Public code clips t to [-100, 50], and with it the gradient: this triplet would be given up.
    def value(anchor):
        return losses.triplet_likelihood(anchor, -anchor, anchor, margin=1.0)[0]

    anchor = jnp.full((1, 4), 30.0)  # t = -3600 - 1
    assert value(anchor) == pytest.approx(3601.0)
    # Of the anchor in all three places: t = -|a|^2 - 1, so 2 a.
    np.testing.assert_allclose(jax.grad(value)(anchor), 2 * anchor, rtol=1e-6)


def test_triplet_quantization_trains_what_is_inside_the_unit_interval_only():
    def total(anchors):
        return jnp.sum(losses.triplet_quantization(anchors, *TRIPLETS[1:], margin=0.75))

    # 2 (b_n - b_p) / (4 * 2) where |a| < 1: b_n - b_p is (-2, 0), (2, 2), (-2, 2).
    due = [[-0.5, 0.0], [0.5, 0.0], [-0.5, 0.5]]
    np.testing.assert_allclose(jax.grad(total)(0.9 * ANCHORS), due, rtol=1e-6)


LENGTHS = np.array([[0.3], [7.0], [1e3]], np.float32)


@pytest.mark.parametrize(
    "function", [losses.order_drop, functools.partial(losses.triplet_quantization, margin=0.75)]
)
def test_what_compares_codes_does_not_depend_on_lengths(function):
    got = function(ANCHORS * LENGTHS, POSITIVES / LENGTHS, NEGATIVES * LENGTHS[::-1])
    np.testing.assert_allclose(got, function(*TRIPLETS), rtol=1e-5, atol=1e-7)


def test_order_drop_of_codes_is_zero(rng):
    codes = rng.choice([-1.0, 1.0], size=(3, 64, 16))
    np.testing.assert_allclose(losses.order_drop(*codes), np.zeros(64), atol=1e-6)
