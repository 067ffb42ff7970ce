"""Which checkpoints a run leaves: when they come, and which of them stay."""

import math
import time

import jax
import numpy as np
import pytest

from quantjax import train
from quantjax.run import checkpoint, parallel
from tests import toy
from tests.programs import steps_in


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn_ste(), num_epochs=4)


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_best_is_kept_whatever_its_age(experiment, mesh, tmp_path):
    values = {0: 0.2, 1: 0.9, 2: 0.5, 3: 0.4, 4: 0.8, 5: 0.1}

    def after_epoch(train_state, epoch):
        return {"validation": values[epoch]}

    longer = experiment._replace(num_epochs=6)
    options = {"workdir": tmp_path, "mesh": mesh, "after_epoch": after_epoch}
    result = train.fit(longer, keep=2, **options)
    assert steps_in(tmp_path) == [8, 20, 24]
    best = train.restore(longer, tmp_path, best=True, mesh=mesh)
    assert int(best.step) == 8
    assert int(train.restore(longer, tmp_path, mesh=mesh).step) == 24
    assert_equal_bits(best.params, train.fit(longer._replace(num_epochs=2), mesh=mesh).state.params)
    records = [each for each in result.history if "after_epoch" in each]
    assert [each["validation"] for each in records] == list(values.values())
    again = train.fit(longer, keep=2, **options)
    assert again.history == result.history


def test_a_value_that_is_no_number_is_not_the_best(experiment, mesh, tmp_path):
    values = {0: float("nan"), 1: 0.1, 2: float("inf"), 3: float("nan")}
    options = {"mesh": mesh, "after_epoch": lambda _, epoch: {"validation": values[epoch]}}
    result = train.fit(experiment, workdir=tmp_path, keep=1, **options)
    assert steps_in(tmp_path) == [8, 16]
    assert int(train.restore(experiment, tmp_path, best=True, mesh=mesh).step) == 8
    found = [each["validation"] for each in result.history if "after_epoch" in each]
    assert found == [None, 0.1, None, None]


def test_checkpoints_come_every_so_many_steps_and_at_the_end(
    experiment, mesh, tmp_path, monkeypatch
):
    short = experiment._replace(num_epochs=3)
    monkeypatch.setattr(train.loop, "_BETWEEN_SAVES", math.inf)
    train.fit(short, workdir=tmp_path, mesh=mesh, checkpoint_every=3, keep=20)
    assert steps_in(tmp_path) == [3, 6, 9, 12]


def test_epochs_are_saved_where_the_last_checkpoint_is_old(experiment, mesh, tmp_path, monkeypatch):
    options = {"mesh": mesh, "checkpoint_every": 6, "keep": 20}
    for between, due in ((math.inf, [6, 12, 16]), (0.0, [4, 6, 8, 12, 16])):
        monkeypatch.setattr(train.loop, "_BETWEEN_SAVES", between)
        train.fit(experiment, workdir=tmp_path / str(between), **options)
        assert steps_in(tmp_path / str(between)) == due


def test_an_epoch_is_saved_before_it_is_looked_at(experiment, mesh, tmp_path, monkeypatch):
    """A look may take longer than whoever sends a signal waits for the end."""
    monkeypatch.setattr(train.loop, "_BETWEEN_SAVES", 0.0)

    def killed(train_state, epoch):
        patience = time.monotonic() + 10
        while not (tmp_path / "checkpoints" / "4").exists() and time.monotonic() < patience:
            time.sleep(0.01)
        raise RuntimeError(f"in epoch {epoch}")

    with pytest.raises(RuntimeError, match="in epoch 0"):
        train.fit(experiment, workdir=tmp_path, mesh=mesh, after_epoch=killed)
    assert steps_in(tmp_path) == [4]
    looked = []
    values = {0: 0.9, 1: 0.1, 2: 0.3, 3: 0.2}

    def after_epoch(train_state, epoch):
        looked.append((int(train_state.step), epoch))
        return {"validation": values[epoch]}

    train.fit(experiment, workdir=tmp_path, mesh=mesh, after_epoch=after_epoch, keep=1)
    assert looked == [(4, 0), (8, 1), (12, 2), (16, 3)]
    assert steps_in(tmp_path) == [4, 16]
    assert int(train.restore(experiment, tmp_path, best=True, mesh=mesh).step) == 4


def test_a_save_of_what_is_there_does_not_make_the_last_one_younger(tmp_path):
    with checkpoint.opened(tmp_path, {"run": 1}) as store:
        opened = store.since
        store.save(1, {"x": jax.numpy.zeros(3)})
        saved = store.since
        assert saved > opened
        store.save(1, {"x": jax.numpy.zeros(3)})
        assert store.since == saved


def test_the_best_is_known_after_a_restart(experiment, mesh, tmp_path):
    values = {0: 0.9, 1: 0.1, 2: 0.3, 3: 0.2}
    options = {
        "mesh": mesh,
        "keep": 1,
        "after_epoch": lambda _, epoch: {"validation": values[epoch]},
    }
    train.fit(experiment._replace(num_epochs=2), workdir=tmp_path, **options)
    assert steps_in(tmp_path) == [4, 8]
    train.fit(experiment, workdir=tmp_path, **options)
    assert steps_in(tmp_path) == [4, 16]


@pytest.mark.parametrize("which", ["oldest", "latest", "dangling"])
@pytest.mark.by_default("latest")
def test_a_link_as_an_old_step_never_costs_the_last(which, experiment, mesh, tmp_path):
    workdir, away = tmp_path / "run", tmp_path / "away"
    train.fit(experiment._replace(num_epochs=2), workdir=workdir, mesh=mesh, checkpoint_every=2)
    step = steps_in(workdir)[-1 if which == "latest" else 0]
    place = workdir / "checkpoints" / str(step)
    place.rename(away)
    place.symlink_to(away if which != "dangling" else tmp_path / "nowhere")
    content = sorted(path.name for path in away.rglob("*"))
    result = train.fit(experiment, workdir=workdir, mesh=mesh, checkpoint_every=2, keep=1)
    assert int(result.state.step) == 16
    assert steps_in(workdir) == [step, 16]
    assert place.is_symlink()
    assert sorted(path.name for path in away.rglob("*")) == content
