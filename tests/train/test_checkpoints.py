"""Checkpoints are listed, restored by step, and give other runs their first parameters."""

import jax
import numpy as np
import optax
import pytest

from quantjax import errors, train
from quantjax.run import parallel
from tests import toy

EPOCHS = 3


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn_ste(), num_epochs=EPOCHS)


@pytest.fixture(scope="module")
def finished(experiment, mesh, tmp_path_factory):
    """A run whose second epoch was the best, and its state after each epoch."""
    workdir, states = tmp_path_factory.mktemp("run"), []

    def after_epoch(train_state, epoch):
        states.append(jax.tree.map(np.asarray, train_state))
        return {"validation": [0.2, 0.9, 0.5][epoch]}

    train.fit(experiment, workdir=workdir, mesh=mesh, after_epoch=after_epoch)
    return workdir, states


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_checkpoints_are_listed_with_the_best(finished, tmp_path):
    assert train.list_checkpoints(finished[0]) == ((4, 8, 12), 8)
    assert train.list_checkpoints(tmp_path / "nothing") == ((), None)


def test_any_step_is_restored(experiment, finished, mesh):
    workdir, states = finished
    for step, due in zip((4, 8, 12), states, strict=True):
        assert_equal_bits(train.restore(experiment, workdir, step=step, mesh=mesh), due)


def test_a_step_that_is_not_there_is_told_with_those_that_are(experiment, finished, mesh):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7; there are 4, 8, 12$"):
        train.restore(experiment, finished[0], step=7, mesh=mesh)
    with pytest.raises(ValueError, match="best and step exclude each other"):
        train.restore(experiment, finished[0], step=4, best=True, mesh=mesh)


def averaging():
    """An optimizer whose state holds a copy of the parameters that it starts from."""
    return optax.contrib.schedule_free_sgd(0.1)


def test_a_warm_start_has_the_parameters_of_the_other_run_and_nothing_else(finished, mesh):
    workdir, states = finished
    other = toy.experiment(toy.dqn_ste(quantization_weight=0.5), num_epochs=1, seed=5)
    other = other._replace(optimizers={name: averaging() for name in other.optimizers})
    warm, cold = train.warm_start(other, workdir, mesh=mesh), train.initialize(other, mesh)
    assert_equal_bits(warm.params, states[-1].params)
    assert_equal_bits(warm.state["nets"], states[-1].state["nets"])
    assert_equal_bits(warm.opt["net"].z, states[-1].params["net"])
    assert (int(warm.step), int(warm.epoch)) == (0, -1)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), warm.params, cold.params)))
    result = train.fit(other, state=warm, mesh=mesh)
    assert int(result.state.step) == 4


def test_statistics_of_a_network_come_along_and_codebooks_of_a_refresh_do_not(mesh, tmp_path):
    experiment = toy.experiment(toy.dqn(), num_epochs=0)  # a refresh alone
    trained = train.fit(experiment, workdir=tmp_path, mesh=mesh).state
    warm = train.warm_start(experiment._replace(seed=3), tmp_path, mesh=mesh)
    assert bool(trained.state["fitted"])
    assert not bool(warm.state["fitted"])
    assert_equal_bits(warm.state["nets"], jax.tree.map(np.asarray, trained.state["nets"]))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            lambda: toy.dqn_ste(num_codewords=8),
            r"params/codebooks is float32\[2, 16, 4\], due is float32\[2, 8, 4\]",
        ),
        (lambda: toy.adsq(), r"params/first/bottleneck/bias is missing, due is float32\["),
    ],
    ids=["other shape", "missing"],
)
@pytest.mark.by_default("other shape")
def test_the_first_parameter_that_does_not_fit_is_named(finished, mesh, method, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        train.warm_start(toy.experiment(method()), finished[0], mesh=mesh)
    assert "\n" not in str(caught.value)


def test_a_warm_start_from_nothing_is_one_line(experiment, mesh, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing has no checkpoints; train there first"):
        train.warm_start(experiment, tmp_path / "nothing", mesh=mesh)
