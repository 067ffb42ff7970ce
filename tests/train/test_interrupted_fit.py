"""A signal or an error in `fit` loses no history and no more than an epoch, and `fit` goes on."""

import os
import signal

import jax
import numpy as np
import pytest

from quantjax import errors, train
from quantjax.run import parallel, signals
from tests import toy
from tests.run_toy import exploding


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn(), num_epochs=4)


@pytest.fixture(scope="module")
def whole(experiment, mesh):
    return train.fit(experiment, mesh=mesh, log_every=1)


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def losses_of(history):
    return [(record["step"], record["loss"]) for record in history if "loss" in record]


def sending(*signals, step=6):
    """A callback that interrupts the run at a step, as often as there are signals."""

    def callback(record):
        if record["step"] == step and "loss" in record:
            for number in signals:
                os.kill(os.getpid(), number)

    return callback


def test_a_signal_is_said_in_one_line_and_the_state_goes_on(experiment, mesh, whole, capsys):
    options = {"mesh": mesh, "log_every": 1}
    stopped = train.fit(experiment, callbacks=[sending(signal.SIGINT)], **options)
    assert stopped.signal == signal.SIGINT
    step = int(stopped.state.step)
    assert 6 <= step < 16
    again = "fit(experiment, state=result.state) goes on from there"
    assert capsys.readouterr().out == f"stopped by SIGINT at step {step}; {again}\n"
    rest = train.fit(experiment, state=stopped.state, **options)
    assert_equal_bits(rest.state, whole.state)
    assert losses_of(stopped.history) + losses_of(rest.history) == losses_of(whole.history)
    assert_equal_bits(train.fit(experiment, state=stopped.state, **options).state, whole.state)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Stopped)],
)
def test_a_signal_can_be_raised_with_state_and_history(experiment, mesh, whole, number, kind):
    with pytest.raises(kind) as caught:
        train.fit(
            experiment, mesh=mesh, log_every=1, callbacks=[sending(number)], raise_on_signal=True
        )
    step = int(caught.value.state.step)
    assert losses_of(caught.value.history) == losses_of(whole.history)[:step]
    rest = train.fit(experiment, mesh=mesh, state=caught.value.state)
    assert_equal_bits(rest.state, whole.state)


def test_two_interrupts_keep_the_state_of_the_last_epochs_end(experiment, mesh, whole):
    two = sending(signal.SIGINT, signal.SIGINT, step=10)
    with pytest.raises(KeyboardInterrupt) as caught:
        train.fit(experiment, mesh=mesh, log_every=1, callbacks=[two])
    assert int(caught.value.state.step) == 8  # two epochs of four steps
    assert losses_of(caught.value.history) == losses_of(whole.history)[:10]
    assert "train.fit(experiment, state=error.state)" in caught.value.__notes__[0]
    rest = train.fit(experiment, mesh=mesh, state=caught.value.state)
    assert_equal_bits(rest.state, whole.state)


def test_a_nan_keeps_a_finite_state_and_the_history(mesh):
    method = toy.dqn()
    (phase,) = method.phases
    phase = phase._replace(loss=exploding(phase.loss, 7, 1))
    broken = toy.experiment(method._replace(phases=(phase,)), num_epochs=4)
    with pytest.raises(
        errors.NonFiniteError, match=r"`state` is the last good one, of step 4"
    ) as caught:
        train.fit(broken, mesh=mesh, log_every=1)
    assert [step for step, _ in losses_of(caught.value.history)] == [1, 2, 3, 4, 5, 6]
    assert int(caught.value.state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.state.params))


def test_any_error_carries_what_there_is(experiment, mesh):
    def failing(record):
        if record["step"] == 5:
            raise KeyError("plot")

    with pytest.raises(KeyError) as caught:
        train.fit(experiment, mesh=mesh, log_every=1, callbacks=[failing])
    assert int(caught.value.state.step) == 4
    assert [step for step, _ in losses_of(caught.value.history)] == [1, 2, 3, 4, 5]


def test_a_workdir_keeps_states_itself(experiment, mesh, tmp_path):
    two = sending(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train.fit(experiment, mesh=mesh, log_every=1, callbacks=[two], workdir=tmp_path)
    assert caught.value.state is None
    assert len(losses_of(caught.value.history)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.params, "state must be a TrainState, .* got a dict"),
        (
            lambda state: state._replace(params={"net": {}}),
            "state does not fit the experiment: .*params/net.* is missing",
        ),
        (lambda state: state._replace(step=np.int32(99)), "25 epochs along, more than num_epochs"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(experiment, mesh, whole, change, message):
    with pytest.raises(ValueError, match=message):
        train.fit(experiment, mesh=mesh, state=change(whole.state))


def test_a_state_is_refused_beside_checkpoints(experiment, mesh, whole, tmp_path):
    train.fit(experiment._replace(num_epochs=1), mesh=mesh, workdir=tmp_path)
    with pytest.raises(ValueError, match="holds checkpoints, and a state is given too"):
        train.fit(experiment, mesh=mesh, workdir=tmp_path, state=whole.state)
