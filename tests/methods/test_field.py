"""What every method of the field promises: one row per method in `field.METHODS`."""

import functools
import signal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, evaluate, methods, train
from quantjax.run import parallel
from tests import field, toy

EPOCHS, EARLY = 10, 4
"""Epochs of a whole training, and those after which its state is kept: 16 steps."""

every_method = pytest.mark.parametrize("name", field.METHODS)
# A table of outputs, centres, views, codebooks that a loss trains, and our own.
few_by_default = pytest.mark.by_default("cibhash", "csq", "dpsh", "saturated_softmax_product")


class Trained(NamedTuple):
    """A training on one device: the state at its start, after some epochs and at its end."""

    experiment: train.Experiment
    start: Any
    early: Any
    end: Any


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def trained(mesh):
    """Trains a method once: `name -> Trained`, for all promises together."""

    @functools.cache
    def of(name):
        experiment, kept = field.experiment(name, num_epochs=EPOCHS), {}

        def after_epoch(state, epoch):
            # Copied, since the next step writes into the memory of this one.
            kept[epoch] = jax.tree.map(jnp.copy, state)
            return {}

        start = jax.tree.map(np.array, train.initialize(experiment, mesh))
        end = train.fit(experiment, mesh=mesh, after_epoch=after_epoch).state
        return Trained(experiment, start, kept[EARLY - 1], end)

    return of


def largest_gap(a, b):
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(np.float64(x) - np.float64(y))), a, b)
    # Python's max passes a NaN over.
    return float(np.max([0.0, *jax.tree.leaves(gaps)]))


def mean_average_precision(experiment, state, mesh):
    found = evaluate.evaluate_method(experiment, state, mesh=mesh, name="toy")
    return found.results[0].value


@few_by_default
@every_method
def test_training_beats_the_untrained_network_by_a_fifth(name, trained, mesh):
    experiment, start, _, end = trained(name)
    if experiment.method.refresh is not None:
        start = train.refresh(experiment, start, epoch=0, mesh=mesh)
    before, after = (mean_average_precision(experiment, state, mesh) for state in (start, end))
    assert before < 0.7
    assert after > before + 0.2


def early_again(experiment, **options):
    """Trains anew until the early state, which was kept before any refresh of its end."""
    plan = experiment.method.refresh
    method = experiment.method._replace(refresh=plan and plan._replace(at_end=False))
    shorter = experiment._replace(method=method, num_epochs=EARLY)
    state = train.fit(shorter, mesh=parallel.data_mesh(), **options).state
    return state.params, state.state


@few_by_default
@every_method
def test_eight_devices_take_the_steps_of_one(name, trained):
    experiment, _, early, _ = trained(name)
    assert largest_gap((early.params, early.state), early_again(experiment)) < 1e-5


@pytest.mark.slow
@every_method
def test_pmap_takes_the_steps_of_jit(name, trained):
    experiment, _, early, _ = trained(name)
    pmapped = early_again(experiment, parallelize=parallel.pmapped_step)
    assert largest_gap((early.params, early.state), pmapped) < 1e-5


@few_by_default
@every_method
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(name, trained, mesh, tmp_path):
    experiment, *_, whole = trained(name)

    def stop(record):
        if record["step"] == 10:
            signal.raise_signal(signal.SIGTERM)

    stopped = train.fit(experiment, workdir=tmp_path, mesh=mesh, callbacks=[stop], log_every=1)
    assert stopped.signal == signal.SIGTERM
    assert int(stopped.state.step) < int(whole.step)
    resumed = train.fit(experiment, workdir=tmp_path, mesh=mesh)
    assert largest_gap(whole, resumed.state) == 0


@few_by_default
@pytest.mark.parametrize("name", field.WEIGHTS)
def test_every_weight_at_zero_trains_other_parameters(name, trained):
    experiment, _, early, _ = trained(name)
    splits = experiment.splits
    rows = splits.train[::16]
    batch = {**splits.source[rows], "index": np.arange(len(rows), dtype=np.int32)}
    batch = toy.normalize(batch)
    zero = jnp.int32(0)
    context = methods.Context(
        key=jax.random.key(0), step=zero, epoch=zero, **methods.Collectives()._asdict()
    )

    # The weights are arguments, so that one compiled program serves all their values.
    @jax.jit
    def gradient(weights):
        (*_, phase) = field.METHODS[name](**weights).phases

        def loss(trained):
            return phase.loss({**early.params, **trained}, early.state, batch, context)[0]

        return jax.grad(loss)({entry: early.params[entry] for entry in phase.trains})

    ones = dict.fromkeys(field.WEIGHTS[name], 1.0)
    usual = gradient(ones)
    for weight in ones:
        assert largest_gap(usual, gradient({**ones, weight: 0.0})) > 1e-6, weight


@every_method
def test_x64_starts_with_no_number_of_64_bits(name):
    batch = toy.normalize(toy.splits().source[np.arange(2)])
    with jax.enable_x64(True):
        init = field.method(name).init
        leaves = jax.tree.leaves(
            jax.eval_shape(lambda key: init(key, batch, 1024), jax.random.key(0))
        )
    assert {leaf.dtype.itemsize for leaf in leaves} <= {1, 4}


@pytest.mark.parametrize("name", sorted(field.METHODS.keys() - field.UNLABELLED))
def test_a_source_without_labels_is_told_in_a_line(name):
    batch = toy.normalize(toy.splits().source[np.arange(8)])
    batch["label"] = batch["label"][:, :0]
    with pytest.raises(errors.InputError, match="the batch has no labels, and this method") as told:
        methods.check(field.method(name), batch, 1024, 1)
    assert "\n" not in str(told.value)
