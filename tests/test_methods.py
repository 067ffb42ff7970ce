"""What every method promises, whatever its paper: one row per method in `toy.METHODS`."""

import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import data, evaluate, methods, train
from quantjax.run import parallel
from quantjax.train import loop
from tests import toy

every_method = pytest.mark.parametrize("make", toy.METHODS.values(), ids=toy.METHODS.keys())
# Codes of tables and of none, several phases, arrays beside the parameters.
few_by_default = pytest.mark.by_default("adsq", "dqn_stored", "supervised_with_arrays")
with_codebooks = pytest.mark.parametrize(
    "make", toy.WITH_CODEBOOKS.values(), ids=toy.WITH_CODEBOOKS.keys()
)


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def mean_average_precision(experiment, train_state, mesh):
    retrieval = evaluate.evaluate_method(experiment, train_state, mesh=mesh, name="toy")
    return retrieval.results[0].value


def largest_gap(a, b):
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(np.float64(x) - np.float64(y))), a, b)
    # Python's max passes a NaN over.
    return float(np.max([0.0, *jax.tree.leaves(gaps)]))


def test_a_nan_is_no_small_gap():
    here, there = ({"a": 0.0, "b": 1.0, "c": b} for b in (1.0, np.nan))
    assert largest_gap(here, here) == 0
    assert np.isnan(largest_gap(here, there))


@pytest.fixture(scope="module")
def one_device(mesh):
    """Five epochs, 20 steps, on one device: `make -> (experiment, final state)`, run once."""

    @functools.cache
    def trained(make):
        experiment = toy.experiment(make(), num_epochs=5)
        return experiment, train.fit(experiment, mesh=mesh).state

    return trained


@every_method
@pytest.mark.by_default("dqn", "supervised", "triplet_quantization")
def test_training_beats_the_untrained_network_by_a_fifth(make, mesh):
    experiment = toy.experiment(make())
    untrained = train.initialize(experiment, mesh)
    if experiment.method.refresh is not None:
        untrained = train.refresh(experiment, untrained, epoch=0, mesh=mesh)
    before = mean_average_precision(experiment, untrained, mesh)
    after = mean_average_precision(experiment, train.fit(experiment, mesh=mesh).state, mesh)
    assert before < 0.7
    assert after > before + 0.2


@pytest.fixture
def refreshed(monkeypatch):
    """The epochs that began with a refresh while the test runs."""
    epochs, refresh = [], loop.refresh

    def noted(*arguments, epoch, **options):
        epochs.append(epoch)
        return refresh(*arguments, epoch=epoch, **options)

    monkeypatch.setattr(loop, "refresh", noted)
    return epochs


@few_by_default
@every_method
def test_eight_devices_take_the_steps_of_one(make, one_device, refreshed):
    experiment, one = one_device(make)
    eight = train.fit(experiment, mesh=parallel.data_mesh()).state
    # One at the end would have no step after it.
    assert experiment.method.refresh is None or min(refreshed) < experiment.num_epochs
    assert int(one.step) == int(eight.step) == 20
    assert largest_gap(one.params, eight.params) < 1e-5
    assert largest_gap(one.state, eight.state) < 1e-5


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(one_device):
    experiment, one = one_device(toy.dqn_ste)
    two = train.fit(experiment, mesh=parallel.data_mesh(jax.devices()[:2])).state
    assert largest_gap((one.params, one.state), (two.params, two.state)) < 1e-5


@pytest.mark.slow
def test_six_devices_take_the_steps_of_one(mesh):
    """Six share neither a block of 1,024 rows nor the table of codes that the refresh writes."""
    sampler = data.shuffled(len(toy.splits().train), 60)
    experiment = toy.experiment(toy.dqn_stored(), num_epochs=5, sampler=sampler, batch_size=60)
    meshes = mesh, parallel.data_mesh(jax.devices()[:6])
    one, six = (train.fit(experiment, mesh=each).state for each in meshes)
    assert np.any(one.state["assignments"])
    assert largest_gap((one.params, one.state), (six.params, six.state)) < 1e-5
    values = [
        mean_average_precision(experiment, state, each)
        for state, each in zip((one, six), meshes, strict=True)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


@few_by_default
@every_method
def test_pmap_takes_the_steps_of_jit(make, one_device):
    experiment, one = one_device(make)
    pmapped = train.fit(
        experiment, mesh=parallel.data_mesh(), parallelize=parallel.pmapped_step
    ).state
    assert largest_gap(one.params, pmapped.params) < 1e-5
    assert largest_gap(one.state, pmapped.state) < 1e-5


@every_method
def test_x64_starts_with_no_number_of_64_bits(make, mesh):
    with jax.enable_x64(True):
        start = functools.partial(train.initialize, toy.experiment(make()), mesh)
        leaves = jax.tree.leaves(jax.eval_shape(start))
    assert {leaf.dtype.itemsize for leaf in leaves} <= {1, 4}


@pytest.mark.by_default("dqn_stored")
@every_method
def test_x64_takes_the_same_steps_in_the_same_dtypes(make, mesh, one_device):
    experiment, usual = one_device(make)
    with jax.enable_x64(True):
        wide = train.fit(experiment, mesh=mesh).state
        codec, other = (experiment.method.codec(s.params, s.state) for s in (usual, wide))
        x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
        assert other.encode(x).dtype == np.uint8
    dtypes = (jax.tree.map(lambda leaf: leaf.dtype, state) for state in (usual, wide))
    assert next(dtypes) == next(dtypes)
    assert largest_gap((usual.params, usual.state), (wide.params, wide.state)) < 1e-5
    np.testing.assert_array_equal(other.encode(x), codec.encode(x))


@pytest.mark.by_default("dqn")
@every_method
def test_a_whole_run_on_eight_devices_ends_where_one_does(make, mesh):
    experiment = toy.experiment(make())
    meshes = mesh, parallel.data_mesh()
    one, eight = (train.fit(experiment, mesh=each) for each in meshes)
    assert one.history[-1]["loss"] == pytest.approx(eight.history[-1]["loss"], abs=0.005)
    values = [
        mean_average_precision(experiment, result.state, each)
        for result, each in zip((one, eight), meshes, strict=True)
    ]
    assert values[0] == pytest.approx(values[1], abs=0.005)


@pytest.mark.parametrize(
    ("name", "weight"), [(name, weight) for name in toy.WEIGHTS for weight in toy.WEIGHTS[name]]
)
@pytest.mark.by_default("adsq-balance_weight", "dqn_stored-*", "triplet_quantization-*")
def test_another_weight_trains_other_parameters(name, weight, mesh, one_device):
    _, usual = one_device(toy.METHODS[name])
    # DQN's is almost zero.
    method = toy.METHODS[name](**{weight: 0.05 if name.startswith("dqn") else 0.0})
    changed = train.fit(toy.experiment(method, num_epochs=5), mesh=mesh).state
    assert largest_gap(usual.params, changed.params) > 1e-4


@few_by_default
@every_method
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(
    make, mesh, one_device, tmp_path
):
    experiment, whole = one_device(make)

    def stop(record):
        if record["step"] == 10:
            signal.raise_signal(signal.SIGTERM)

    stopped = train.fit(experiment, workdir=tmp_path, mesh=mesh, callbacks=[stop], log_every=1)
    assert stopped.signal == signal.SIGTERM
    assert int(stopped.state.step) < int(whole.step) == 20
    resumed = train.fit(experiment, workdir=tmp_path, mesh=mesh)
    assert largest_gap(whole, resumed.state) == 0


@with_codebooks
def test_codec_before_codebooks_exist_raises(make, mesh):
    experiment = toy.experiment(make())
    fresh, plan = train.initialize(experiment, mesh), experiment.method.refresh
    end = " or the end of training" if plan.at_end else ""
    with pytest.raises(ValueError, match=f"do not exist before epoch {plan.start}{end};"):
        experiment.method.codec(fresh.params, fresh.state)


@every_method
@pytest.mark.by_default("adsq*", "dqn*", "triplet_quantization", "supervised")
def test_entries_a_phase_does_not_train_stay_bit_equal(make, mesh):
    method = make()
    optimizers = toy.experiment(method).optimizers
    for phase in method.phases:
        fewer = [set(phase.trains) - {name} for name in phase.trains if len(phase.trains) > 1]
        for trained in [set(phase.trains), *fewer]:
            alone = method._replace(
                phases=(phase._replace(trains=tuple(sorted(trained))),),
                phase_at=lambda epoch: 0,
                refresh=None,
            )
            experiment = toy.experiment(alone, optimizers=optimizers, num_epochs=1)
            start = train.initialize(experiment, mesh)
            before = jax.tree.map(np.asarray, start.params)
            after = train.fit(experiment, mesh=mesh).state.params
            for name in before:
                moved = largest_gap(before[name], after[name])
                # Codebooks that were never fitted are not trained either.
                assert moved == 0 if name not in trained else moved > 0 or name == "codebooks"


def features_as_images(batch):
    return batch["feature"].reshape(-1, toy.SIDE, toy.SIDE, 1)


class Uniform:
    """A source all of whose pixels have one value."""

    def __init__(self, source, value):
        self.labels, self.classes = source.labels, source.classes
        self._source, self._value = source, value

    def __len__(self):
        return len(self._source)

    def __getitem__(self, rows):
        batch = self._source[rows]
        return {**batch, "image": np.full_like(batch["image"], self._value)}


@pytest.mark.parametrize("name", toy.METHODS)
@pytest.mark.by_default("dqn", "deepquan")
def test_a_method_of_features_looks_at_no_image(name, mesh):
    # The toy networks but DeepQuan's are of images, which 64 features are as well as 64 pixels.
    inputs = methods.features if name == "deepquan" else features_as_images

    experiment = toy.experiment(toy.METHODS[name](inputs=inputs), num_epochs=3)

    def last_state(value):
        source = Uniform(experiment.splits.source, value)
        replaced = experiment._replace(splits=experiment.splits._replace(source=source))
        return train.fit(replaced, mesh=mesh).state

    assert largest_gap(last_state(0), last_state(1)) == 0


def test_dqn_quantizes_only_once_codebooks_exist(mesh):
    heavy, none = (
        train.fit(toy.experiment(toy.dqn(quantization_weight=w), num_epochs=2), mesh=mesh).state
        for w in (1.0, 0.0)
    )
    assert largest_gap(heavy.params, none.params) == 0


def test_dqn_refits_codebooks_every_second_epoch(mesh):
    refresh = toy.dqn().refresh
    assert [epoch for epoch in range(7) if refresh.due(epoch)] == [2, 4, 6]
    assert toy.dqn(refit_every=3).refresh.due(3)
    assert not toy.dqn(refit_every=3).refresh.due(4)


def test_dqn_ste_starts_its_codebooks_once(mesh):
    refresh = toy.dqn_ste().refresh
    assert [epoch for epoch in range(7) if refresh.due(epoch)] == [1]
    assert not refresh.at_end


def test_dqn_ste_moves_codebooks_after_their_start(mesh):
    states = [
        train.fit(toy.experiment(toy.dqn_ste(), num_epochs=epochs), mesh=mesh).state
        for epochs in (1, 2)
    ]
    assert not np.any(states[0].params["codebooks"])
    after = states[1]
    experiment = toy.experiment(toy.dqn_ste(), num_epochs=1)
    started = train.refresh(experiment, train.fit(experiment, mesh=mesh).state, epoch=1, mesh=mesh)
    assert largest_gap(started.params["codebooks"], after.params["codebooks"]) > 1e-4


def test_a_rewritten_entry_gets_a_fresh_optimizer_state(mesh):
    experiment = toy.experiment(toy.dqn_ste(), num_epochs=2)
    state = train.fit(experiment, mesh=mesh).state
    assert np.any(jax.tree.leaves(state.opt["codebooks"])[0])
    rewritten = train.refresh(experiment, state, epoch=2, mesh=mesh)
    assert not np.any(jax.tree.leaves(rewritten.opt["codebooks"])[0])
    assert largest_gap(state.opt["net"], rewritten.opt["net"]) == 0


def test_warm_start_never_raises_the_distortion(mesh, rng):
    from quantjax.methods.dqn import restart, warm_start
    from quantjax.quantizers import product

    x = jnp.asarray(rng.normal(size=(256, 8)), jnp.float32)
    mask = jnp.arange(256) < 200
    empty = jnp.zeros((2, 16, 4))

    def distortion(codebooks):
        gap = x - product.decode(codebooks, product.encode(codebooks, x))
        return float(jnp.mean(jnp.sum(jnp.square(gap), axis=1)[:200]))

    first = warm_start(jax.random.key(0), empty, x, mask)
    np.testing.assert_array_equal(first, restart(jax.random.key(0), empty, x, mask))
    few = restart(jax.random.key(0), empty, x, mask, num_iterations=1)
    assert distortion(warm_start(jax.random.key(1), few, x, mask)) < distortion(few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 3}, "multiple of num_codebooks"),
        ({"num_codewords": 512}, "between 2 and 256"),
        ({"num_codewords": 12}, "power of two"),
        ({"metric": "hamming"}, "metric must be one of"),
    ],
)
@with_codebooks
def test_sizes_that_cannot_be_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
