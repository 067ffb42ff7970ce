"""Microbatches are the whole batch, with less of it in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses, models, train
from quantjax.models import microbatched
from quantjax.run import parallel
from tests import toy

X = jnp.asarray(np.random.default_rng(0).normal(size=(32, 8, 8, 3)), jnp.float32)
SIMILAR = jnp.asarray(np.random.default_rng(1).integers(0, 2, (32, 32)), jnp.float32)


def pair_loss(network, params, state, x):
    z, _ = network.apply(params, state, x, train=True)
    return jnp.mean(losses.pairwise_cosine(z, z, SIMILAR))


def plain(side=8, width=8):
    return models.convnet(
        (side, side, 3), channels=(width, width), kernel_sizes=(3, 3), hidden=16, dim=6
    )


def loss_and_gradient(network, params, state):
    return jax.jit(jax.value_and_grad(lambda p: pair_loss(network, p, state, X)))(params)


@functools.cache
def of_the_whole_batch():
    parts = plain().init(jax.random.key(0), X)
    return parts, loss_and_gradient(plain(), *parts)


@pytest.mark.parametrize("size", [8, 64])
def test_loss_and_gradient_are_those_of_the_whole_batch(size):
    parts, due = of_the_whole_batch()
    found = loss_and_gradient(microbatched(plain(), size), *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, due)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(due[1])) > 1e-3


@pytest.mark.parametrize("size", [8, 12])
def test_rows_come_back_in_their_order(size):
    network = plain()
    params, state = network.init(jax.random.key(0), X)
    due, _ = network.apply(params, state, X, train=False)
    found, _ = microbatched(network, size).apply(params, state, X, train=False)
    np.testing.assert_allclose(found, due, atol=1e-6)


@pytest.mark.slow  # loss and gradient are compared above
def test_training_in_microbatches_ends_where_the_plain_one_does():
    mesh = parallel.data_mesh(jax.devices()[:1])
    states = [
        train.fit(toy.experiment(toy.dqn(network=network), num_epochs=5), mesh=mesh).state
        for network in (toy.network(), microbatched(toy.network(), 16))
    ]
    gaps = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), states[0].params, states[1].params
    )
    assert np.max(jax.tree.leaves(gaps)) < 1e-5


def test_less_is_kept_for_the_gradient():
    network = plain(side=32, width=32)
    x = jax.ShapeDtypeStruct((256, 32, 32, 3), jnp.float32)
    params, state = jax.eval_shape(network.init, jax.random.key(0), x)

    def memory(network):
        def loss(params, state, x):
            z, _ = network.apply(params, state, x, train=True)
            return jnp.mean(jnp.square(z @ z.T))

        return jax.jit(jax.grad(loss)).lower(params, state, x).compile().memory_analysis()

    whole, turns = memory(network), memory(microbatched(network, 32))
    assert turns.temp_size_in_bytes < whole.temp_size_in_bytes / 3


def test_every_device_has_its_part_of_each_turn():
    mesh = parallel.data_mesh()
    network = microbatched(plain(), 16)
    params, state = network.init(jax.random.key(0), X)
    rows = jax.device_put(X, parallel.by_rows(mesh))
    params, state = parallel.put(mesh, (params, state))
    compiled = (
        jax.jit(lambda p, x: network.apply(p, state, x, train=True)[0])
        .lower(params, rows)
        .compile()
    )
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    found = compiled(params, rows)
    due, _ = plain().apply(params, state, X, train=True)
    np.testing.assert_allclose(found, due, atol=1e-5)


def test_dropout_is_a_function_of_the_key_and_differs_from_turn_to_turn():
    def drop(params, net_state, x, *, train, key=None):
        return x * jax.random.bernoulli(key, 0.5, x.shape), net_state

    network = models.Network(lambda key, example: ({}, {}), drop)
    x, params, state = jnp.ones((32, 16)), {}, {}
    turns = microbatched(network, 8)
    once, again, other = (
        turns.apply(params, state, x, train=True, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert np.any(once != other)
    assert len(np.unique(np.asarray(once).round(5), axis=0)) > 8


def test_batch_statistics_are_refused_in_training_alone():
    network = models.cifar_resnet18((8, 8, 3), dim=4)
    params, state = jax.eval_shape(network.init, jax.random.key(0), X)
    turns = microbatched(network, 8)

    def applied(train):
        return jax.eval_shape(
            lambda p, s, x: turns.apply(p, s, x, train=train)[0], params, state, X
        )

    assert applied(False).shape == (32, 4)
    with pytest.raises(ValueError, match=r"batch statistics \(.*\) cannot train in microbatches"):
        applied(True)


def test_frozen_statistics_are_no_hindrance():
    backbone = models.cifar_resnet18((8, 8, 3), dim=4)
    network = models.fine_tuned(microbatched(backbone, 8), 4, dim=3)
    params, state = jax.eval_shape(network.init, jax.random.key(0), X)
    y, _ = jax.eval_shape(lambda p, s, x: network.apply(p, s, x, train=True), params, state, X)
    assert y.shape == (32, 3)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size must be 1 or more, got 0"):
        microbatched(plain(), 0)
    params, state = plain().init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="microbatches of 12 rows must divide the batch of 32"):
        microbatched(plain(), 12).apply(params, state, X, train=True)
