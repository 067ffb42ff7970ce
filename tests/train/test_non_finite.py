"""A gradient that is not a number is told of, although the loss and the parameters are."""

import jax
import jax.numpy as jnp
import optax
import pytest

from quantjax import errors, train
from quantjax.run import parallel
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


def of_one_array(experiment, spoil):
    """The experiment with one array of its trained params spoilt in the loss by `spoil`."""
    (phase,) = experiment.method.phases

    def loss(params, state, batch, context):
        bottleneck = params["net"]["bottleneck"]
        kernel = spoil(bottleneck["kernel"], context.step + 1)
        net = {**params["net"], "bottleneck": {**bottleneck, "kernel": kernel}}
        return phase.loss({**params, "net": net}, state, batch, context)

    method = experiment.method._replace(phases=(phase._replace(loss=loss),))
    return experiment._replace(method=method)


@pytest.fixture(scope="module")
def plain():
    return toy.experiment(toy.dqn_ste(), num_epochs=4)


def test_the_array_that_is_not_finite_is_named_by_its_path(plain, mesh):
    of_gradient = of_one_array(plain, lambda kernel, step: spoilt(kernel, step == 7))
    with pytest.raises(errors.NonFiniteError) as caught:
        train.fit(of_gradient, mesh=mesh)
    assert "grad_norm is nan at step 7 (epoch 1, phase joint); the first array that is not " in str(
        caught.value
    )
    assert ": the gradient of net/bottleneck/kernel" in str(caught.value)
    # A parameter that an optimizer spoils, and no loss sees: the run's end finds it.
    method = plain.method._replace(
        after_step=lambda params, state: (
            {**params, "codebooks": params["codebooks"] + jnp.inf},
            state,
        )
    )
    blind = of_one_array(plain._replace(method=method, num_epochs=1), lambda kernel, step: kernel)
    (phase,) = blind.method.phases

    def loss(params, state, batch, context):
        kept = {**params, "codebooks": jnp.zeros_like(params["codebooks"])}
        return phase.loss(kept, state, batch, context)

    blind = blind._replace(method=blind.method._replace(phases=(phase._replace(loss=loss),)))
    with pytest.raises(errors.NonFiniteError, match="params codebooks is not finite at step 4;"):
        train.fit(blind, mesh=mesh)


@pytest.mark.parametrize("parallelize", [parallel.sharded_step, parallel.pmapped_step])
@pytest.mark.by_default("sharded_step")
def test_a_skipped_step_names_its_array_on_many_devices_too(plain, parallelize):
    method = plain.method._replace(
        after_step=lambda params, state: (
            {**params, "codebooks": params["codebooks"].at[0, 3].set(jnp.nan)},
            state,
        )
    )
    options = {"mesh": parallel.data_mesh(jax.devices()[:2]), "parallelize": parallelize}
    experiment = plain._replace(method=method, num_epochs=1)
    result = train.fit(experiment, skip_non_finite=True, log_every=1, **options)
    assert {each["skipped"] for each in result.history} == {"params codebooks"}


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
