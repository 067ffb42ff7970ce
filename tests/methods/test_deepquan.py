"""What DeepQuan alone promises: its triplets and weights, no labels, and no trivial collapse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import train
from quantjax.methods.deepquan import by_rank, equal, flat_images, heat_kernel, weighted_triplets
from quantjax.run import parallel
from tests import toy


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def spread(experiment, state, mesh):
    """Sum over dimensions of the embedding's variance."""
    x = train.embed(experiment, state, experiment.splits.train, mesh=mesh)
    return float(np.sum(np.var(x, axis=0)))


@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_weighted_triplets_equal_a_loop(margin, rng):
    distances, positive, negative = rng.uniform(0, 3, (3, 4, 6))
    ranks = rng.integers(0, 3, (4, 6))
    ranks[np.arange(4), np.arange(4)] = -1
    total, number = 0.0, 0
    for a, p, n in itertools.product(range(4), range(6), range(6)):
        if ranks[a, p] > 0 and ranks[a, n] == 0:
            hinge = max(0.0, margin + distances[a, p] - distances[a, n])
            total += positive[a, p] * negative[a, n] * hinge
            number += 1
    found = weighted_triplets(
        jnp.asarray(distances),
        (jnp.asarray(positive), jnp.asarray(negative)),
        jnp.asarray(ranks),
        margin=margin,
    )
    np.testing.assert_allclose(found, (total, number), rtol=1e-5)


def test_weights_are_the_formulas():
    squared, ranks = jnp.array([[0.0, 4.0, 16.0]]), jnp.array([[1, 3, 0]])
    positive, negative = heat_kernel(squared, ranks, width=2.0)
    np.testing.assert_allclose(positive, np.exp([[0.0, -1.0, -4.0]]), rtol=1e-6)
    np.testing.assert_allclose(negative, 1 - np.exp([[0.0, -1.0, -4.0]]), rtol=1e-6)
    positive, negative = by_rank(squared, ranks)
    np.testing.assert_allclose(positive[0, :2], [1.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(negative, [[1, 1, 1]])
    np.testing.assert_array_equal(equal(squared, ranks), np.ones((2, 1, 3)))


@pytest.mark.slow
def test_ways_to_weigh_train_different_networks(mesh):
    ways = (functools.partial(heat_kernel, width=10.0), by_rank, equal)
    ends = [
        train.fit(toy.experiment(toy.deepquan(weigh=weigh), num_epochs=2), mesh=mesh).state.params
        for weigh in ways
    ]
    for one, other in itertools.combinations(ends, 2):
        gaps = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), one, other)
        assert np.max(jax.tree.leaves(gaps)) > 1e-5


@pytest.mark.slow
def test_without_triplets_quantization_collapses_the_embedding(mesh):
    """The trivial solution: one point loses nothing to quantization."""
    options = {
        "pretrain_epochs": 0,
        "reconstruction_weight": 0.0,
        "quantization_weight": 0.5,
        "num_codewords": 2,
    }
    shares = []
    for weight in (0.0, 1.0):
        experiment = toy.experiment(toy.deepquan(triplet_weight=weight, **options))
        before = spread(experiment, train.initialize(experiment, mesh), mesh)
        shares.append(spread(experiment, train.fit(experiment, mesh=mesh).state, mesh) / before)
    assert shares[0] < 0.01
    assert shares[1] > 0.1


def test_labels_are_not_looked_at(mesh):
    experiment = toy.experiment(toy.deepquan(), num_epochs=2)
    blind = experiment._replace(
        augment=lambda key, batch: {k: v for k, v in batch.items() if k != "label"}
    )
    one, other = (train.fit(each, mesh=mesh).state for each in (experiment, blind))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_reconstruction_comes_first_and_codebooks_follow(mesh):
    method = toy.deepquan(pretrain_epochs=2, refit_every=2)
    names = [method.phases[method.phase_at(epoch)].name for epoch in range(4)]
    assert names == ["reconstruction", "reconstruction", "joint", "joint"]
    assert [epoch for epoch in range(6) if method.refresh.due(epoch)] == [2, 4]
    experiment = toy.experiment(method, num_epochs=2)
    ends = [
        train.fit(toy.experiment(toy.deepquan(pretrain_epochs=2, **o), num_epochs=2), mesh=mesh)
        for o in ({}, {"triplet_weight": 0.0, "quantization_weight": 0.0})
    ]
    jax.tree.map(np.testing.assert_array_equal, ends[0].state.params, ends[1].state.params)
    assert bool(train.fit(experiment, mesh=mesh).state.state["fitted"])


def test_images_are_flattened_for_a_perceptron():
    assert flat_images({"image": jnp.zeros((3, 4, 5, 2))}).shape == (3, 40)
