"""What DQN alone promises: codes that are held between refits, beside those of every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import train
from quantjax.methods.base import Context
from quantjax.quantizers import product
from quantjax.run import parallel
from tests import toy


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def refitted(mesh):
    """An experiment with held codes, and its state three epochs on, right after a last refit."""
    experiment = toy.experiment(toy.dqn_stored(), num_epochs=3)
    return experiment, train.fit(experiment, mesh=mesh).state


def batch_of(experiment, rows):
    splits = experiment.splits
    columns = {**splits.source[splits.train[rows]], "index": rows.astype(np.int32)}
    return experiment.preprocess({name: jnp.asarray(column) for name, column in columns.items()})


def quantization_error(method, params, state, batch):
    context = Context(
        key=jax.random.key(0),
        step=jnp.int32(0),
        epoch=jnp.int32(0),
        gather=lambda x: x,
        mean=lambda x: x,
    )
    (phase,) = method.phases
    total, (_, metrics) = phase.loss(params, state, batch, context)
    return float(total), float(metrics["quantization_error"])


def test_held_codes_are_the_nearest_codewords_right_after_a_refit(refitted):
    experiment, after = refitted
    num_train = len(experiment.splits.train)
    batch = batch_of(experiment, np.arange(num_train))
    z = experiment.method.embed(after.params, after.state, batch)
    held = after.state["assignments"]
    assert held.shape == (1024, 2)  # training rows are padded to a multiple of 1,024
    np.testing.assert_array_equal(held[:num_train], product.encode(after.state["codebooks"], z))


def test_held_codes_give_the_loss_of_nearest_ones_until_the_network_moves(refitted):
    experiment, after = refitted
    batch = batch_of(experiment, np.arange(200, 40, -5))
    held, nearest = experiment.method, toy.dqn()
    losses = [quantization_error(m, after.params, after.state, batch) for m in (held, nearest)]
    assert losses[0] == losses[1]
    moved = jax.tree.map(lambda x: 1.2 * x, after.params)
    errors = [quantization_error(m, moved, after.state, batch)[1] for m in (held, nearest)]
    # The nearest codewords are never farther than those of the last refit.
    assert errors[0] > errors[1] + 1e-3


def test_held_codes_stay_between_refits_and_change_at_one(mesh):
    def codes_after(num_epochs, **options):
        experiment = toy.experiment(toy.dqn_stored(**options), num_epochs=num_epochs)
        method = experiment.method._replace(
            refresh=experiment.method.refresh._replace(at_end=False)
        )
        return train.fit(experiment._replace(method=method), mesh=mesh).state.state["assignments"]

    # Refits precede epochs 2 and 4.
    assert not np.any(codes_after(2))
    np.testing.assert_array_equal(codes_after(3), codes_after(4))
    assert np.any(codes_after(4) != codes_after(5))


def test_codes_of_every_step_leave_no_table(mesh):
    state = train.initialize(toy.experiment(toy.dqn()), mesh).state
    assert state.keys() == {"nets", "codebooks", "fitted"}


def test_another_word_for_when_codes_change_is_refused():
    with pytest.raises(ValueError, match='reassign must be "step" or "refit", got \'epoch\''):
        toy.dqn(reassign="epoch")
