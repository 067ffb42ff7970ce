"""A gradient that is not a number is told of, although the loss and the parameters are."""

import jax
import jax.numpy as jnp
import optax
import pytest

from quantjax import errors, parallel, train
from tests import toy


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@jax.custom_vjp
def spoilt(value, wrong):
    """The value as it is, with a gradient that is NaN where it is wrong."""
    del wrong
    return value


spoilt.defvjp(
    lambda value, wrong: (value, wrong),
    lambda wrong, gradient: (jnp.where(wrong, jnp.nan, gradient), None),
)


@pytest.fixture(scope="module")
def experiment():
    """The gradient of step 7 is NaN, and its optimizer takes that for a zero."""
    method = toy.dqn_ste()
    (phase,) = method.phases

    def loss(params, state, batch, context):
        value, rest = phase.loss(params, state, batch, context)
        return spoilt(value, context.step + 1 == 7), rest

    optimizer = optax.chain(optax.zero_nans(), optax.sgd(0.2))
    return toy.experiment(
        method._replace(phases=(phase._replace(loss=loss),)),
        optimizers=dict.fromkeys(phase.trains, optimizer),
        num_epochs=4,
    )


def test_a_gradient_alone_names_step_phase_and_last_good_checkpoint(experiment, mesh, tmp_path):
    with pytest.raises(errors.NonFiniteError) as caught:
        train.fit(experiment, workdir=tmp_path, mesh=mesh, checkpoint_every=4)
    message = str(caught.value)
    assert "grad_norm is nan at step 7 (epoch 1, phase joint)" in message
    assert f"last good checkpoint is step 4 in {tmp_path}" in message


def test_a_gradient_alone_has_its_step_skipped_if_so_wished(experiment, mesh):
    result = train.fit(experiment, mesh=mesh, skip_non_finite=True, log_every=1)
    skipped = {each["step"]: each["skipped"] for each in result.history if "skipped" in each}
    assert skipped == {7: "grad_norm"}
    assert all(each["loss"] is not None for each in result.history)
    assert int(result.state.step) == 16
