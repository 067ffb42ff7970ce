from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quantjax import optimizers

FACTORS = (("bottleneck/.*", 10.0), (".*bias", 2.0))
RATES = {
    "bottleneck": {"bias": 20.0, "kernel": 10.0},
    "layers": {"0": {"bias": 2.0, "kernel": 1.0}},
}
PARAMS = {
    "bottleneck": {"bias": jnp.array([1.0, -2.0]), "kernel": jnp.array([3.0])},
    "layers": {"0": {"bias": jnp.array([0.5]), "kernel": jnp.array([-1.5, 2.5])}},
}


class Pair(NamedTuple):
    weight: jax.Array
    offset: jax.Array


def test_factors_of_all_that_match_multiply():
    transformation = optimizers.scale_by_path(FACTORS)
    state = transformation.init(PARAMS)
    updates, _ = jax.jit(transformation.update)(PARAMS, state)
    due = jax.tree.map(lambda rate, x: rate * x, RATES, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, due)


@pytest.mark.parametrize("pattern", ["kernel", "bottleneck", "layers/0"])
def test_an_expression_must_match_the_whole_path(pattern):
    transformation = optimizers.scale_by_path(((pattern, 3.0),))
    with pytest.raises(ValueError, match=f"no parameter matches '{pattern}'; there are ") as caught:
        transformation.init(PARAMS)
    for path in ("bottleneck/bias", "bottleneck/kernel", "layers/0/bias", "layers/0/kernel"):
        assert path in str(caught.value)


def test_one_of_several_expressions_that_matches_nothing_is_refused():
    transformation = optimizers.scale_by_path((*FACTORS, ("botleneck/.*", 3.0)))
    with pytest.raises(ValueError, match="no parameter matches 'botleneck/"):
        transformation.init(PARAMS)


def test_paths_go_through_lists_and_named_tuples():
    params = [
        Pair(jnp.array([1.0]), jnp.array([2.0])),
        {"w": jnp.array([3.0]), "wide": jnp.array([4.0])},
    ]
    transformation = optimizers.scale_by_path((("0/weight", 5.0), ("1/w", 7.0)))
    updates, _ = transformation.update(params, transformation.init(params))
    assert [float(x[0]) for x in jax.tree.leaves(updates)] == [5.0, 2.0, 21.0, 4.0]


def test_scaling_keeps_the_dtype():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    transformation = optimizers.scale_by_path((("w", 2.0),))
    updates, _ = transformation.update(params, transformation.init(params))
    assert updates["w"].dtype == jnp.bfloat16


def by_hand(params, gradient_of, rates, rate_at, *, steps, momentum, nesterov, weight_decay):
    velocity = [np.zeros_like(x) for x in params]
    for step in range(steps):
        for i, gradient in enumerate(gradient_of(params)):
            gradient = gradient + weight_decay * params[i]
            velocity[i] = momentum * velocity[i] + gradient
            move = gradient + momentum * velocity[i] if nesterov else velocity[i]
            params[i] = params[i] - rate_at(step) * rates[i] * move
    return params


@pytest.mark.parametrize("momentum", [None, 0.5])
@pytest.mark.parametrize("nesterov", [None, True])
@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("factors", [None, FACTORS])
@pytest.mark.parametrize("staircase", [False, True])
def test_momentum_sgd_equals_a_numpy_loop(momentum, nesterov, weight_decay, factors, staircase):
    given = {
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "factors": factors,
    }
    given = {name: value for name, value in given.items() if value is not None}
    schedule = 0.002
    if staircase:
        schedule = optax.exponential_decay(
            0.004, transition_steps=3, decay_rate=0.5, staircase=True
        )
    optimizer = optimizers.momentum_sgd(schedule, **given)

    # f(x) = sum(x^4) / 4, so that the gradient depends on where the last step led.
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for _ in range(8):
        updates, state = update(jax.tree.map(lambda x: x**3, params), state, params)
        params = optax.apply_updates(params, updates)

    due = by_hand(
        [np.float64(x) for x in jax.tree.leaves(PARAMS)],
        lambda values: [x**3 for x in values],
        jax.tree.leaves(RATES) if factors else [1.0] * 4,
        lambda step: 0.004 * 0.5 ** (step // 3) if staircase else 0.002,
        steps=8,
        **{"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
        | {name: value for name, value in given.items() if name != "factors"},
    )
    for got, x in zip(jax.tree.leaves(params), due, strict=True):
        np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-6)
