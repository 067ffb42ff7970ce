import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses

QUERY = np.array([[1.0, 0.0]], np.float32)
KEYS = np.array([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0], [0.0, 0.0]], np.float32)
# Cosines 1, 0, 0.6, 0; at T = 1/2 the powers are e^2, 1, e^1.2, 1.
NT_XENT = {
    (2, 0): math.log(2 + math.exp(1.2)) - 1.2,
    (2, -1): math.log(math.exp(2) + 2 + math.exp(1.2)) - 1.2,
    (2, 4): math.log(math.exp(2) + 2 + math.exp(1.2)) - 1.2,
    (0, 2): math.log(math.exp(2) + 2) - 2,
    (-1, 0): 0.0,
    (4, 0): 0.0,
    (0, 0): 0.0,
}


@pytest.mark.parametrize("columns", NT_XENT)
def test_nt_xent_made_by_hand(columns):
    positives, selves = np.array(columns)[:, None]
    got = losses.nt_xent(QUERY, KEYS, positives, selves, temperature=0.5)
    np.testing.assert_allclose(got, [NT_XENT[columns]], rtol=1e-5)
    got = losses.debiased_nt_xent(
        QUERY, KEYS, positives, selves, temperature=0.5, positive_prior=0.0
    )
    np.testing.assert_allclose(got, [NT_XENT[columns]], rtol=1e-5)


def test_an_ignored_column_is_no_negative():
    ignored = np.array([[True, True, True, False]])  # The positive, column 2, counts even so.
    got = losses.nt_xent(QUERY, KEYS, np.array([2]), np.array([0]), ignored, temperature=0.5)
    np.testing.assert_allclose(got, [math.log(1 + math.exp(1.2)) - 1.2], rtol=1e-5)


def test_an_ignored_item_is_no_negative_in_either_view():
    first, second, *_ = two_views(3)
    keep = np.array([0, 1, 3, 4])
    ignored = np.tile(np.arange(5) == 2, (4, 1))
    for function in (losses.cross_quantized, losses.cibhash):
        got = function(first[keep], second[keep], first, second, keep, ignored)
        due = function(first[keep], second[keep], first[keep], second[keep], np.arange(4))
        np.testing.assert_allclose(got, due, rtol=1e-5)


def test_nt_xent_on_two_views_as_its_docstring_says():
    views = np.eye(3, dtype=np.float32)  # Three images, equal in both views.
    x = jnp.concatenate((views, views))
    numbers = jnp.arange(6)
    got = losses.nt_xent(x, x, jnp.roll(numbers, 3), numbers, temperature=0.5)
    np.testing.assert_allclose(got, [math.log(math.exp(2) + 4) - 2] * 6, rtol=1e-5)
    got = losses.nt_xent_of_views(views, views, views, views, jnp.arange(3), temperature=0.5)
    np.testing.assert_allclose(got, [math.log(math.exp(2) + 4) - 2] * 3, rtol=1e-5)


def test_debiased_nt_xent_made_by_hand():
    def loss(prior):
        columns = np.array([2]), np.array([0])
        return losses.debiased_nt_xent(QUERY, KEYS, *columns, temperature=0.5, positive_prior=prior)

    p = math.exp(1.2)  # Two negatives, of power 1 each.
    np.testing.assert_allclose(loss(0.1), [math.log(1 + (2 - 0.2 * p) / 0.9 / p)], rtol=1e-5)
    # The estimate is negative here; the floor is 2 exp(-1 / T), not exp(-2 / T).
    np.testing.assert_allclose(loss(0.4), [math.log(1 + 2 * math.exp(-2) / p)], rtol=1e-5)


@pytest.mark.parametrize(
    ("positive", "own", "due"), [(2, 0, 0.0), (1, 0, 600.0 + math.log(1 / 0.9)), (2, -1, 400.0)]
)
def test_no_temperature_overflows(positive, own, due):
    columns = np.array([positive]), np.array([own])
    options = {"temperature": 1e-3}
    got = losses.nt_xent(QUERY, KEYS, *columns, **options)
    np.testing.assert_allclose(got, [round(due, -2)], rtol=1e-3, atol=1e-6)
    got, gradient = jax.value_and_grad(
        lambda q: losses.debiased_nt_xent(q, KEYS, *columns, **options, positive_prior=0.1)[0]
    )(QUERY)
    np.testing.assert_allclose(got, due, rtol=1e-3, atol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("positive", [-1, 0])
@pytest.mark.parametrize("num_keys", [1, 4])
@pytest.mark.parametrize("function", [losses.nt_xent, losses.debiased_nt_xent])
def test_rows_without_a_positive_give_nothing(function, num_keys, positive):
    options = {"temperature": 0.5}
    if function is losses.debiased_nt_xent:
        options["positive_prior"] = 0.1
    columns = np.array([positive]), np.array([0])
    value, gradients = jax.value_and_grad(
        lambda q, k: function(q, k, *columns, **options)[0], argnums=(0, 1)
    )(QUERY, KEYS[:num_keys])
    for got in (value, *gradients):
        np.testing.assert_array_equal(got, np.zeros_like(got))


def test_a_positive_without_negatives_costs_nothing():
    options = {"temperature": 0.5, "positive_prior": 0.1}
    value, gradient = jax.value_and_grad(
        lambda q: losses.debiased_nt_xent(q, KEYS[2:3], np.array([0]), np.array([-1]), **options)[0]
    )(QUERY)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((1, 2)), atol=1e-6)


def two_views(seed, rows=5, dimensions=4):
    rng = np.random.default_rng(seed)
    return [np.float32(rng.normal(size=(rows, dimensions))) for _ in range(4)]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_cross_quantized_made_by_hand(temperature):
    # Of x_0, x_1, z_0, z_1 the directions are (1, 0), (0, 1), (0, 1), (0.8, 0.6).
    x, z = np.array([[1.0, 0], [0, 2]], np.float32), np.array([[0, 3.0], [4, 3]], np.float32)
    power = {cosine: math.exp(cosine / temperature) for cosine in (0.6, 0.8, 1.0)}
    x_0 = math.log(1 + 1 + power[0.8])  # x_1, z_0, z_1; the positive has cosine 0
    z_0 = math.log(1 + power[1.0] + power[0.6])  # x_0, x_1, z_1; 0
    x_1 = math.log(1 + power[1.0] + power[0.6]) - 0.6 / temperature  # x_0, z_0, z_1
    z_1 = math.log(power[0.8] + 2 * power[0.6]) - 0.6 / temperature  # x_0, x_1, z_0
    got = losses.cross_quantized(x, z, x, z, np.arange(2), temperature=temperature)
    np.testing.assert_allclose(got, [(x_0 + z_0) / 2, (x_1 + z_1) / 2], rtol=1e-5)
    got = losses.cross_quantized(x[1:], z[1:], x, z, np.array([1]), temperature=temperature)
    np.testing.assert_allclose(got, [(x_1 + z_1) / 2], rtol=1e-5)


def test_cross_quantized_is_the_public_codes_objective():
    # CE over {Xa, Zb} plus CE over {Xb, Za}, each the mean of 2N rows whose positive is N further.
    x_a, x_b, z_a, z_b = two_views(0)
    due = 0.0
    for lists in ((x_a, z_b), (x_b, z_a)):
        rows = np.concatenate(lists).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        powers = np.exp(rows @ rows.T / 0.5)
        np.fill_diagonal(powers, 0)
        positives = powers[np.arange(10), np.roll(np.arange(10), 5)]
        due += np.mean(-np.log(positives / powers.sum(axis=1)))
    own = np.arange(5)
    got = losses.cross_quantized(x_a, z_b, x_a, z_b, own)
    got += losses.cross_quantized(x_b, z_a, x_b, z_a, own)
    np.testing.assert_allclose(np.mean(got), due, rtol=1e-5)


@pytest.mark.parametrize("function", [losses.cross_quantized, losses.cibhash])
def test_a_part_of_the_rows_has_the_values_of_the_whole(function):
    first, second, *_ = two_views(1)
    whole = function(first, second, first, second, np.arange(5))
    rows = [3, 1]
    part = function(first[rows], second[rows], first, second, np.array(rows))
    np.testing.assert_allclose(part, np.asarray(whole)[rows], rtol=1e-5)


def test_cibhash_contrast_made_by_hand():
    # Codes (1, 1), (1, -1) of the first view and (-1, 1), (1, -1) of the second.
    first = np.array([[0.0, 2.0], [3.0, -0.1]], np.float32)
    second = np.array([[-1.0, 0.5], [2.0, -5.0]], np.float32)
    got = losses.cibhash(first, second, first, second, np.arange(2), temperature=0.5, weight=0.0)
    # Cosines 0, 0, 0 there and 0, -1, -1 back; then 0, -1, 1 both ways.
    row_0 = (math.log(3) + math.log(1 + 2 * math.exp(-2))) / 2
    row_1 = math.log(1 + math.exp(-2) + math.exp(2)) - 2
    np.testing.assert_allclose(got, [row_0, row_1], rtol=1e-5)


def test_cibhash_contrasts_signs():
    views = two_views(2)[:2]
    signs = [np.where(x >= 0, 1, -1).astype(np.float32) for x in views]
    own, options = np.arange(5), {"temperature": 0.4, "weight": 0.0}
    got = losses.cibhash(*views, *views, own, **options)
    due = losses.cross_quantized(*signs, *signs, own, temperature=0.4)
    np.testing.assert_allclose(got, due, rtol=1e-5)
    small = [1e-9 * x for x in views]  # Where sigmoid(x) rounds to 1/2.
    np.testing.assert_allclose(losses.cibhash(*small, *small, own, **options), due, rtol=1e-5)


def test_cibhash_divergence_made_by_hand():
    # One row has no negatives, so only the divergence is left: p = 3/4 and q = 1/2.
    first, second = np.array([[math.log(3)]], np.float32), np.zeros((1, 1), np.float32)

    def loss(first, second):
        own = np.array([0])
        return losses.cibhash(first, second, first, second, own, weight=2.0)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(first, second)
    forth = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    np.testing.assert_allclose(value, forth + back, rtol=1e-5)
    # dKL(p || constant)/dx = p (1 - p) (x - y), and nothing from the other divergence.
    np.testing.assert_allclose(gradients[0], [[3 / 16 * math.log(3)]], rtol=1e-5)
    np.testing.assert_allclose(gradients[1], [[-1 / 4 * math.log(3)]], rtol=1e-5)
