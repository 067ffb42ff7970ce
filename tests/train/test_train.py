"""The loop: resume, signals, records, checks."""

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import optax
import pytest

from quantjax import data, errors, train
from quantjax.batch import first_view, over_views
from quantjax.methods.base import Context
from quantjax.run import checkpoint, parallel, processes, signals
from tests import programs, run_toy, toy


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn_ste(), num_epochs=4)


@pytest.fixture(scope="module")
def uninterrupted(experiment, mesh, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return train.fit(experiment, workdir=workdir, mesh=mesh, log_every=2), workdir


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def steps_logged(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def stop_after(step):
    def callback(record):
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


@pytest.fixture
def compiled():
    """Seconds of every program that is compiled, or read from a cache, while the test runs."""
    found = []

    def note(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("parallelize", [parallel.sharded_step, parallel.pmapped_step])
@pytest.mark.by_default("sharded_step")
def test_a_second_run_of_the_same_parts_compiles_nothing(experiment, mesh, parallelize, compiled):
    options = {"mesh": mesh, "parallelize": parallelize}
    train.fit(experiment, **options)
    del compiled[:]
    again = experiment._replace(num_epochs=2, name="again", sampler=data.shuffled(256, 64))
    train.fit(again, **options)
    assert compiled == []
    train.fit(again._replace(seed=1), **options)
    assert compiled


def test_parts_that_cannot_be_hashed_are_compiled_each_time(experiment, mesh):
    class Unhashable:
        __hash__ = None

        def __call__(self, key, batch):
            return batch

    a, b = (
        train.fit(experiment._replace(num_epochs=1, augment=augment), mesh=mesh).state
        for augment in (experiment.augment, Unhashable())
    )
    assert_equal_bits(a, b)


@pytest.mark.parametrize("stop", [2, 6, 14, 16])
def test_a_stopped_run_resumes_to_the_same_bits(experiment, uninterrupted, mesh, tmp_path, stop):
    whole, folder = uninterrupted
    options = {"workdir": tmp_path, "mesh": mesh, "log_every": 2}
    stopped = train.fit(experiment, callbacks=[stop_after(stop)], **options)
    assert stopped.signal == signal.SIGTERM
    assert stop <= int(stopped.state.step) <= 16
    resumed = train.fit(experiment, **options)
    assert resumed.signal is None
    assert_equal_bits(resumed.state, whole.state)
    assert steps_logged(tmp_path) == steps_logged(folder) == list(range(2, 17, 2))


def test_a_signal_in_the_last_step_leaves_what_no_signal_would(mesh, tmp_path):
    experiment = toy.experiment(toy.dqn(), num_epochs=2)
    options = {"mesh": mesh, "log_every": 1, "after_epoch": lambda *_: {"validation": 0.5}}
    whole = train.fit(experiment, **options).state
    found = train.fit(experiment, workdir=tmp_path, callbacks=[stop_after(7)], **options)
    assert found.signal == signal.SIGTERM
    for best in (False, True):
        assert_equal_bits(train.restore(experiment, tmp_path, best=best, mesh=mesh), whole)
    assert steps_logged(tmp_path) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_a_signal_while_the_last_state_is_saved_is_told(experiment, mesh, tmp_path, monkeypatch):
    wait = checkpoint.Store.wait

    def interrupted(store):
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(checkpoint.Store, "wait", wait)
        wait(store)

    monkeypatch.setattr(checkpoint.Store, "wait", interrupted)
    short = experiment._replace(num_epochs=1)
    assert train.fit(short, workdir=tmp_path, mesh=mesh).signal == signal.SIGTERM
    assert int(train.restore(short, tmp_path, mesh=mesh).epoch) == 1


def test_a_signal_of_ones_own_behind_that_of_another_process_is_not_sent_again(
    experiment, mesh, tmp_path, monkeypatch
):
    wait, waited = checkpoint.Store.wait, []

    def interrupted(store):
        wait(store)
        waited.append(1)
        if len(waited) == 2:  # the last thing before all is over
            os.kill(os.getpid(), signal.SIGTERM)

    # As if another process had told of its signal, and this one's came late.
    monkeypatch.setattr(checkpoint.Store, "wait", interrupted)
    monkeypatch.setattr(processes.Agreement, "exchange", lambda *_: signal.SIGTERM)
    with signals.ending():
        assert train.fit(experiment, workdir=tmp_path, mesh=mesh).signal == signal.SIGTERM
    assert len(waited) == 2


def test_a_signal_while_the_others_are_waited_for_is_not_lost(
    experiment, mesh, tmp_path, monkeypatch
):
    def last(agreement, number):
        os.kill(os.getpid(), signal.SIGTERM)
        return number

    monkeypatch.setattr(processes.Agreement, "at_end", last)
    with signals.ending(), pytest.raises(signals.Stopped) as stopped:
        train.fit(experiment, workdir=tmp_path, mesh=mesh)
    assert stopped.value.number == signal.SIGTERM


def test_a_signal_stops_a_run_whose_source_is_stalled(experiment, uninterrupted, mesh, tmp_path):
    stalled = threading.Event()

    def sampler(seed, epoch):
        if epoch == 1 and not stalled.is_set():
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            stalled.wait(60)
        return experiment.sampler(seed, epoch)

    began = time.monotonic()
    stopped = train.fit(experiment._replace(sampler=sampler), mesh=mesh, workdir=tmp_path)
    assert time.monotonic() - began < 30
    assert (stopped.signal, int(stopped.state.step)) == (signal.SIGTERM, 4)
    stalled.set()
    resumed = train.fit(experiment, mesh=mesh, workdir=tmp_path)
    assert_equal_bits(resumed.state, uninterrupted[0].state)


def test_a_finished_state_goes_on_for_more_epochs(experiment, mesh):
    short, longer = (experiment._replace(num_epochs=number) for number in (3, 5))
    first = train.fit(short, mesh=mesh)
    assert_equal_bits(
        train.fit(longer, mesh=mesh, state=first.state).state, train.fit(longer, mesh=mesh).state
    )


def test_a_run_resumes_on_other_devices(experiment, uninterrupted, mesh, tmp_path):
    whole, _ = uninterrupted
    options = {"workdir": tmp_path, "log_every": 2}
    train.fit(experiment, mesh=mesh, callbacks=[stop_after(8)], **options)
    resumed = train.fit(experiment, mesh=parallel.data_mesh(jax.devices()[:2]), **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resumed.state, whole.state
    )


def test_a_complete_run_starts_again_without_a_step(experiment, uninterrupted, mesh):
    whole, folder = uninterrupted
    seen = []
    again = train.fit(experiment, workdir=folder, mesh=mesh, callbacks=[seen.append])
    assert_equal_bits(again.state, whole.state)
    assert seen == []
    assert again.history == whole.history


def test_without_a_workdir_nothing_is_written(experiment, mesh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train.fit(experiment._replace(num_epochs=1), mesh=mesh)
    assert result.signal is None
    assert list(tmp_path.iterdir()) == []


def test_another_split_is_refused(experiment, uninterrupted, mesh):
    _, folder = uninterrupted
    splits = experiment.splits
    other = splits._replace(query=splits.query[1:])
    with pytest.raises(ValueError, match="belongs to another run: split"):
        train.fit(experiment._replace(splits=other), workdir=folder, mesh=mesh)


def test_resume_false_refuses_a_workdir_with_checkpoints(experiment, uninterrupted, mesh):
    _, folder = uninterrupted
    with pytest.raises(ValueError, match="holds checkpoints"):
        train.fit(experiment, workdir=folder, mesh=mesh, resume=False)


def test_signal_handlers_are_put_back(experiment, mesh):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.fit(experiment._replace(num_epochs=0), mesh=mesh)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_ctrl_c_without_a_workdir_keeps_state_and_history(experiment, mesh):
    def interrupt(record):
        if record["step"] == 6:
            os.kill(os.getpid(), signal.SIGINT)

    result = train.fit(experiment, mesh=mesh, callbacks=[interrupt], log_every=1)
    assert result.signal == signal.SIGINT
    assert 6 <= int(result.state.step) < 16
    assert [record["step"] for record in result.history] == list(
        range(1, int(result.state.step) + 1)
    )


def exploding(experiment, at_step, num_steps=1):
    """The loss turns NaN at a step."""
    phase = experiment.method.phases[0]
    loss = run_toy.exploding(phase.loss, at_step, num_steps)
    method = experiment.method._replace(phases=(phase._replace(loss=loss),))
    return experiment._replace(method=method)


def test_a_nan_names_step_phase_and_last_good_checkpoint(experiment, mesh, tmp_path):
    with pytest.raises(errors.NonFiniteError) as caught:
        train.fit(exploding(experiment, 7), workdir=tmp_path, mesh=mesh, checkpoint_every=4)
    message = str(caught.value)
    assert "loss is nan at step 7 (epoch 1, phase joint)" in message
    assert f"last good checkpoint is step 4 in {tmp_path}" in message
    # The good checkpoint is whole: a mended experiment goes on from it.
    mended = train.fit(experiment, workdir=tmp_path, mesh=mesh)
    assert int(mended.state.step) == 16


def test_a_nan_in_the_last_step_of_an_epoch_is_not_saved(experiment, mesh, tmp_path):
    with pytest.raises(errors.NonFiniteError, match=r"at step 8.*checkpoint is step 4"):
        train.fit(exploding(experiment, 8), workdir=tmp_path, mesh=mesh, checkpoint_every=4)


def test_a_run_that_is_stopped_at_the_end_of_an_epoch_looks_at_it_later(experiment, mesh, tmp_path):
    looked = []

    def after_epoch(train_state, epoch):
        looked.append((int(train_state.step), epoch))
        return {"seen": epoch}

    options = {"workdir": tmp_path, "mesh": mesh, "log_every": 1, "after_epoch": after_epoch}
    stopped = train.fit(experiment, callbacks=[stop_after(3)], **options)
    assert stopped.signal == signal.SIGTERM
    assert int(stopped.state.step) == 4
    assert looked == []
    resumed = train.fit(experiment, **options)
    assert looked == [(4, 0), (8, 1), (12, 2), (16, 3)]
    assert_equal_bits(resumed.state, train.fit(experiment, mesh=mesh).state)
    assert [each["seen"] for each in resumed.history if "after_epoch" in each] == [0, 1, 2, 3]


def test_a_run_that_is_further_along_than_asked_for_is_refused(experiment, mesh, tmp_path):
    train.fit(experiment, workdir=tmp_path, mesh=mesh, callbacks=[stop_after(9)], log_every=1)
    shorter = experiment._replace(num_epochs=2)
    with pytest.raises(ValueError, match="is 3 epochs along, more than num_epochs, 2; choose"):
        train.fit(shorter, workdir=tmp_path, mesh=mesh)


def test_records_are_on_the_disk_before_a_checkpoint_is(experiment, mesh, tmp_path, monkeypatch):
    path, fsync, save = tmp_path / "metrics.jsonl", os.fsync, checkpoint.Store.save
    synced, sizes = 0, []

    def noted_fsync(descriptor):
        nonlocal synced
        fsync(descriptor)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            synced = path.stat().st_size

    def noted_save(store, *arguments, **options):
        sizes.append((synced, path.stat().st_size))
        save(store, *arguments, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(checkpoint.Store, "save", noted_save)
    train.fit(experiment, workdir=tmp_path, mesh=mesh, checkpoint_every=4, log_every=1)
    assert len(sizes) == 4
    assert all(0 < kept == written for kept, written in sizes)


def test_a_nan_is_skipped_and_counted_if_so_wished(experiment, mesh, tmp_path):
    options = {"mesh": mesh, "skip_non_finite": True, "log_every": 4}
    result = train.fit(exploding(experiment, 7, 2), workdir=tmp_path, **options)
    assert int(result.state.step) == 16
    assert steps_logged(tmp_path) == [4, 7, 8, 12, 16]
    skipped = {each["step"]: each["skipped"] for each in result.history if "skipped" in each}
    assert skipped == {7: "loss, grad_norm", 8: "loss, grad_norm"}
    assert [each["loss"] for each in result.history if "skipped" in each] == [None, None]
    whole = train.fit(experiment, **options).state
    plain = train.fit(experiment, mesh=mesh).state
    assert_equal_bits(whole, plain)


def test_a_skipped_step_changes_nothing_but_its_number(experiment, mesh):
    start = train.initialize(experiment, mesh)
    phase = exploding(experiment, 1).method.phases[0]
    step = parallel.sharded_step(train.make_step(experiment, phase, skip_non_finite=True), mesh)
    rows = experiment.splits.train[:64]
    batch = toy.normalize(of_rows(experiment, rows))
    before = jax.tree.map(np.asarray, start)
    after, metrics = step(start, parallel.put_rows(mesh, batch))
    assert float(metrics["skipped"]) == 1
    assert int(after.step) == 1
    assert_equal_bits(after._replace(step=before.step), before)


def test_a_run_that_only_skips_is_stopped(experiment, mesh):
    longer = experiment._replace(num_epochs=30)
    with pytest.raises(errors.NonFiniteError, match="100 steps in a row were skipped, loss not"):
        train.fit(exploding(longer, 5, 1000), mesh=mesh, skip_non_finite=True)


def test_records_tell_what_input_and_steps_took(uninterrupted):
    whole, _ = uninterrupted
    for record in whole.history:
        assert record["images_per_second"] == pytest.approx(
            64 * record["steps_per_second"], rel=0.01
        )
        assert record["steps_per_second"] > 0
        assert 0 <= record["data_wait"] <= 1


def test_slow_input_shows_as_waiting(experiment, mesh):
    class Slow:
        def __init__(self, source):
            self.labels, self.classes, self._source = source.labels, source.classes, source

        def __len__(self):
            return len(self._source)

        def __getitem__(self, rows):
            time.sleep(0.05)
            return self._source[rows]

    slow = experiment._replace(
        splits=experiment.splits._replace(source=Slow(experiment.splits.source))
    )
    waits = [
        train.fit(each, mesh=mesh, log_every=8).history[-1]["data_wait"]
        for each in (experiment, slow)
    ]
    assert waits[0] < 0.5 < waits[1]


def test_an_error_of_the_source_is_the_error_of_the_run(experiment, mesh):
    def sampler(seed, epoch):
        if epoch == 1:
            raise OSError("the disk is gone")
        return experiment.sampler(seed, epoch)

    with pytest.raises(OSError, match="the disk is gone"):
        train.fit(experiment._replace(sampler=sampler), mesh=mesh)


def test_a_stretch_of_steps_is_traced(experiment, mesh, tmp_path, monkeypatch):
    taken, at = [], []

    def counted(*args):
        step = parallel.sharded_step(*args)
        return lambda state, batch: taken.append(1) or step(state, batch)

    begin = jax.profiler.trace

    @contextlib.contextmanager
    def noted(folder):
        at.append(len(taken))
        with begin(folder):
            yield
        at.append(len(taken))

    monkeypatch.setattr(jax.profiler, "trace", noted)
    short = experiment._replace(num_epochs=2)
    options = {"mesh": mesh, "parallelize": counted}
    train.fit(short, workdir=tmp_path, profile=(2, 5), **options)
    assert at == [2, 5]
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_two_runs_in_one_workdir_are_one_too_many(experiment, mesh, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(workdir=str(tmp_path))],
        cwd=programs.ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"is in use by process {holder.pid} on "):
        train.fit(experiment, workdir=tmp_path, mesh=mesh)
    holder.kill()  # by kill -9: the system gives the folder free
    holder.wait()
    holder.stdout.close()
    train.fit(experiment._replace(num_epochs=1), workdir=tmp_path, mesh=mesh)


def test_two_runs_of_one_process_are_one_too_many_as_well(experiment, mesh, tmp_path):
    held, done = threading.Event(), threading.Event()

    def hold(record):
        held.set()
        assert done.wait(60)

    options = {"workdir": tmp_path, "mesh": mesh}
    short = experiment._replace(num_epochs=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(train.fit, short, callbacks=[hold], **options)
        assert held.wait(60)
        try:
            with pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on "):
                train.fit(short, **options)
        finally:
            done.set()
        assert int(first.result(60).state.step) == 4


HOLD = """
import pathlib, time
from quantjax.run import workdirs
with workdirs.held(pathlib.Path({workdir!r})):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_state_that_is_not_finite_is_not_saved(mesh, tmp_path):
    experiment = toy.experiment(toy.triplet_quantization(), num_epochs=4)
    phase = experiment.method.phases[0]

    def loss(params, state, batch, context):
        value, (after, metrics) = phase.loss(params, state, batch, context)
        wrong = jax.numpy.where(context.step >= 6, jax.numpy.nan, 0.0)
        return value, ({**after, "spoilt": state["spoilt"] + wrong}, metrics)

    def init(*arguments):
        params, state = experiment.method.init(*arguments)
        return params, {**state, "spoilt": jax.numpy.zeros(())}

    method = experiment.method._replace(phases=(phase._replace(loss=loss),), init=init)
    spoilt = experiment._replace(method=method)
    with pytest.raises(
        errors.NonFiniteError, match=r"state spoilt is not finite at step 8.*step 4"
    ):
        train.fit(spoilt, workdir=tmp_path, mesh=mesh, checkpoint_every=4)
    skipped = train.fit(spoilt, mesh=mesh, skip_non_finite=True, log_every=1)
    assert {each.get("skipped") for each in skipped.history[6:]} == {"state spoilt"}
    assert float(skipped.state.state["spoilt"]) == 0


def test_a_sampler_whose_epochs_differ_is_refused(experiment, mesh):
    uneven = experiment._replace(
        sampler=lambda seed, epoch: experiment.sampler(seed, epoch)[: 4 - epoch % 2]
    )
    with pytest.raises(ValueError, match="got 4 in the first and 3 in epoch 1"):
        train.fit(uneven, mesh=mesh)


def test_fewer_training_rows_than_codewords_are_refused(mesh):
    splits = toy.splits()._replace(train=toy.splits().train[:12])
    small = toy.experiment(toy.dqn(), splits=splits, sampler=data.shuffled(12, 4), batch_size=4)
    with pytest.raises(
        ValueError, match="fewer training rows than codewords: 12 rows, at least 16"
    ):
        train.fit(small, mesh=mesh)


def test_a_batch_the_devices_cannot_share_is_refused():
    odd = toy.experiment(toy.dqn(), sampler=data.shuffled(256, 60), batch_size=60)
    with pytest.raises(ValueError, match="multiple of the 8 devices, got 60"):
        train.fit(odd, mesh=parallel.data_mesh())


def test_a_sampler_of_another_batch_size_is_refused(mesh):
    with pytest.raises(ValueError, match=r"positions \[steps, 32\], got \(4, 64\)"):
        train.fit(toy.experiment(toy.dqn(), batch_size=32), mesh=mesh)


def test_optimizers_of_other_names_are_refused(mesh):
    other = toy.experiment(toy.dqn(), optimizers={"network": optax.sgd(0.1)})
    with pytest.raises(ValueError, match=r"must be given for \['net'\], got \['network'\]"):
        train.fit(other, mesh=mesh)


def test_the_seed_changes_the_run_and_nothing_else_does(experiment, uninterrupted, mesh):
    whole, _ = uninterrupted
    again = train.fit(experiment, mesh=mesh).state
    other = train.fit(experiment._replace(seed=1), mesh=mesh).state
    assert_equal_bits(again, whole.state)
    assert np.any(other.params["codebooks"] != again.params["codebooks"])


def test_batches_reach_augment_with_their_own_key_and_index(experiment, mesh):
    seen = []

    def augment(key, batch):
        jax.debug.callback(
            lambda data, index: seen.append((data.tolist(), index.tolist())),
            jax.random.key_data(key),
            batch["index"],
        )
        return batch

    train.fit(experiment._replace(augment=augment, num_epochs=2), mesh=mesh)
    jax.effects_barrier()
    assert len({tuple(key) for key, _ in seen}) == 8
    first_epoch = sorted(row for _, index in seen[:4] for row in index)
    assert first_epoch == list(range(256))


def of_rows(experiment, rows):
    return {**experiment.splits.source[rows], "index": np.arange(len(rows), dtype=np.int32)}


def test_training_preprocesses_what_augment_made_of_raw_images(experiment, mesh):
    def augment(key, batch):
        assert batch["image"].dtype == np.uint8
        return {**batch, "image": 255 - batch["image"]}

    plain = train.Experiment(**{**experiment._asdict(), "augment": augment})
    state, batch = train.initialize(plain, mesh), of_rows(plain, plain.splits.train[:6])
    prepared = train.make_prepare(plain)(state, batch)
    raw = np.float32(batch["image"])
    np.testing.assert_array_equal(prepared["image"], (255 - raw - 128) / 64)
    np.testing.assert_array_equal(prepared["index"], batch["index"])


def test_an_augment_alone_trains_on_the_pixels_that_are_measured(experiment, mesh):
    untouched = experiment._replace(augment=lambda key, batch: batch, num_epochs=2)
    fields = experiment._replace(num_epochs=2)._asdict()
    fields.pop("augment")
    one, other = (
        train.fit(each, mesh=mesh, log_every=1) for each in (untouched, train.Experiment(**fields))
    )
    assert_equal_bits(one.state, other.state)
    # The loss of the first step is that of the images as `preprocess` gives them.
    rows = experiment.splits.train[experiment.sampler(experiment.seed, 0)[0]]
    batch = toy.normalize(of_rows(experiment, rows))
    context = Context(key=jax.random.key(0), step=0, epoch=0, gather=lambda x: x, mean=None)
    state = train.initialize(experiment, mesh)
    loss_of = experiment.method.phases[0].loss
    loss, _ = jax.jit(lambda *parts: loss_of(*parts, context))(state.params, state.state, batch)
    assert one.history[0]["loss"] == pytest.approx(float(loss), rel=1e-5)


def views_of(name):
    """Two views, the image and its mirror image, made by one of the two functions."""

    def views(batch):
        image = batch["image"]
        return {**batch, "image": jax.numpy.stack([image, image[:, :, ::-1]], axis=1)}

    if name == "augment":
        return {"augment": lambda key, batch: views(batch), "preprocess": toy.normalize}
    return {"preprocess": lambda batch: views(toy.normalize(batch))}


def test_a_loss_sees_the_views_of_augment_and_of_preprocess_the_first(experiment, mesh):
    state = train.initialize(experiment, mesh)
    batch = of_rows(experiment, experiment.splits.train[:3])
    one = toy.normalize(batch)["image"]
    two = np.stack([one, one[:, :, ::-1]], axis=1)
    for name, due in (("augment", two), ("preprocess", one)):
        prepare = train.make_prepare(experiment._replace(**views_of(name)))
        np.testing.assert_array_equal(prepare(state, batch)["image"], due)


def test_batches_without_images_have_no_views():
    batch = {"feature": np.ones((3, 2))}
    assert first_view(batch)["feature"] is batch["feature"]
    out = over_views(lambda params, state, batch: 2 * batch["feature"])(None, None, batch)
    np.testing.assert_array_equal(out, 2 * batch["feature"])


def test_views_are_embedded_one_by_one_and_averaged(rng):
    views = rng.normal(size=(3, 5, 2, 2, 1)).astype(np.float32)
    index = np.arange(3)

    def embed(params, state, batch):
        assert batch["image"].ndim == 4
        return batch["image"].reshape(-1, 4) ** 2 + batch["index"][:, None]

    expected = np.mean(views.reshape(3, 5, 4) ** 2, axis=1) + index[:, None]
    out = over_views(embed)(None, None, {"image": views, "index": index})
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_views_of_preprocess_are_embedded_and_collected_one_by_one(mesh):
    def twice(batch):
        batch = toy.normalize(batch)
        return {**batch, "image": jax.numpy.stack([batch["image"]] * 2, axis=1)}

    plain = toy.experiment(toy.dqn(), num_epochs=2)
    states = [
        train.fit(experiment, mesh=mesh).state
        for experiment in (plain, plain._replace(preprocess=twice))
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), states[0].state, states[1].state
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epochs": -1}, "num_epochs must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"method": toy.dqn(refit_every=0)}, "must start at epoch 0 .* got start 0 and every 0"),
        ({"method": toy.dqn(refit_every=-2)}, "must start at epoch 0 .* got start -2 and every -2"),
    ],
)
def test_numbers_that_cannot_be_are_refused(experiment, mesh, changes, message):
    with pytest.raises(ValueError, match=message):
        train.fit(experiment._replace(**changes), mesh=mesh)
