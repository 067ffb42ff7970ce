"""The loop. It knows `Method` and nothing of any paper."""

import contextlib
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax import (
    checkpoint,
    embedding,
    folders,
    interruption,
    parallel,
    prefetch,
    processes,
    records,
)
from quantjax.errors import InputError, NonFiniteError
from quantjax.train.compile_cache import keep_programs
from quantjax.train.experiment import (
    Experiment,
    TrainState,
    check_method,
    check_numbers,
    initialize,
    make_prepare,
)
from quantjax.train.resume import about_run, claim, restored, validations
from quantjax.train.step import all_finite, finite_leaves, leaf_names, make_step, paths, refresh

AfterEpoch = Callable[[TrainState, int], dict[str, float]]
"""`(train_state, epoch) -> values` after every epoch, and after the refresh that ends the run.

The values become a record with "after_epoch", null where they are not finite; the checkpoint whose
"validation" is largest is kept. Every process calls it."""


class FitResult(NamedTuple):
    """What `fit` leaves in memory.

    Attributes:
      state: The final train state.
      history: Logged records, oldest first, those before a resume included.
      signal: Number of the signal that stopped the run, or that reached it at its end, or None.
    """

    state: TrainState
    history: list[dict[str, Any]]
    signal: int | None


def fit(
    experiment: Experiment,
    *,
    workdir: str | pathlib.Path | None = None,
    resume: bool = True,
    parallelize: Callable[..., Any] = parallel.sharded_step,
    mesh: Mesh | None = None,
    callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
    log_every: int = 10,
    checkpoint_every: int | None = None,
    keep: int = 3,
    after_epoch: AfterEpoch | None = None,
    skip_non_finite: bool = False,
    profile: tuple[int, int] | None = None,
) -> FitResult:
    """Trains an experiment to its end, or to a signal.

    With a workdir it saves checkpoints, also on SIGTERM or Ctrl-C, writes metrics.jsonl, and goes
    on from the latest checkpoint there that is whole. A second signal stops at once. Several
    processes call it alike, each reading the rows of its own devices; the first one writes.
    Compiled programs are kept on disk, see `keep_programs`.

    Args:
      experiment: What to run.
      workdir: Folder of checkpoints and metrics.jsonl, shared by all processes; nothing is written
        when None.
      resume: Whether to go on from what the workdir holds; when False, a workdir with checkpoints
        is refused rather than mixed with another run.
      parallelize: `parallel.sharded_step` or `parallel.pmapped_step`, or one of their arguments;
        augmentation and preprocessing are what it is to prepare.
      mesh: Devices to run on; all of them when None.
      callbacks: Each is called with every logged record, a dict of JSON values.
      log_every: Steps between two records; the last step of an epoch is always logged.
      checkpoint_every: Steps between two checkpoints, beside those after epochs that gave a
        "validation" and after those whose last checkpoint is ten seconds old.
      keep: Checkpoints that are kept, the latest ones; the best by "validation" is kept as well,
        and the one that it beat until the next is saved.
      after_epoch: See `AfterEpoch`.
      skip_non_finite: Whether a step whose loss or gradient is not finite is skipped, and counted
        in the records, where it would stop the run.
      profile: First step and the one after the last of a trace in the workdir's folder "profile".

    Returns:
      Final state, history, and the signal that stopped the run, if one did.

    Raises:
      ValueError: if batch size, training rows, optimizers, a number or the workdir do not fit, the
        method does not keep to its contract (see `methods.check`), or another run is at work in
        the workdir.
      DamagedError: if there are checkpoints and none can be read.
      OSError: if a checkpoint or a record cannot be written.
      NonFiniteError: if a loss, gradient, parameter or state is not finite; the message names the
        step, the array, such as net/dense/kernel, and the last good checkpoint.
    """
    keep_programs()
    mesh = parallel.data_mesh() if mesh is None else mesh
    workdir = None if workdir is None else pathlib.Path(workdir)
    per_epoch = _check(experiment, mesh, log_every=log_every, keep=keep)
    about = about_run(experiment)
    processes.check_same(
        {
            **about,
            "num_epochs": experiment.num_epochs,
            "log_every": log_every,
            "checkpoint_every": checkpoint_every,
            "keep": keep,
            "resume": resume,
            "skip_non_finite": skip_non_finite,
            "looks after epochs": after_epoch is not None,
            "jax": jax.__version__,
        }
    )
    folder = None if workdir is None else workdir / "checkpoints"
    writes = workdir is not None and processes.is_first()
    phases = experiment.method.phases
    with (
        interruption.watch() as caught,
        _held(experiment, workdir),
        checkpoint.opened(folder, about, max_to_keep=keep) as store,
        _last_good(store),
    ):
        train_state = restored(store, experiment, initialize(experiment, mesh), resume=resume)
        step, epoch = int(train_state.step), int(train_state.epoch)
        log_file = workdir / "metrics.jsonl" if workdir is not None and writes else None
        if step == 0 and log_file is not None and log_file.exists():
            warnings.warn(f"{folder} holds no checkpoint: starting at step 0 again", stacklevel=2)
        if step >= per_epoch and log_file is not None and not log_file.exists():
            warnings.warn(
                f"{log_file} is gone: which checkpoint was the best is not known any more",
                stacklevel=2,
            )
        journal = records.open_journal(
            log_file,
            callbacks if processes.is_first() else (),
            step,
            batch_size=experiment.batch_size,
            leaves={
                phase.name: leaf_names(train_state, phase, skip_non_finite=skip_non_finite)
                for phase in phases
            },
        )
        store.values.update(processes.from_first(lambda: [*validations(journal.history).items()]))
        steps = [
            parallelize(
                make_step(experiment, phase, skip_non_finite=skip_non_finite),
                mesh,
                make_prepare(experiment),
            )
            for phase in phases
        ]
        agreement = processes.Agreement(mesh)
        # A process that is alone waits for no batch once it is to stop; others would wait for it.
        unless = None if processes.spans(mesh) else caught
        tracing = _trace(workdir if writes else None, profile)
        batches = _batches(experiment, mesh, step, per_epoch)
        with prefetch.ahead(batches) as next_batch, tracing as trace:
            stopped = agreement.say(caught())
            while not stopped and epoch < experiment.num_epochs:
                if step == (epoch + 1) * per_epoch:
                    # A run that was stopped between the two has still to look at its epoch.
                    if 0 <= epoch < experiment.num_epochs - 1:
                        _look(after_epoch, store, journal, train_state, step, epoch)
                    epoch += 1
                    train_state = _begin_epoch(experiment, train_state, epoch, mesh)
                    continue
                trace(step, train_state)
                try:
                    batch, waited = next_batch(unless)
                except prefetch.GivenUpError:
                    break
                records.awaited(journal, waited)
                phase = experiment.method.phase_at(epoch)
                train_state, metrics = steps[phase](train_state, batch)
                step += 1
                record = {"step": step, "epoch": epoch, "phase": phases[phase].name}
                last = step == (epoch + 1) * per_epoch
                due = last or step % log_every == 0
                records.note(journal, record, metrics, log=due)
                # The last epoch is saved below, after the refresh that ends the run: it is too late
                # to stop ahead of that.
                if last and epoch + 1 == experiment.num_epochs:
                    continue
                stopped = agreement.say(caught())
                asked = checkpoint_every and step % checkpoint_every == 0
                # Ahead of the look, which may take longer than whoever sends signals waits.
                if stopped or asked or (last and _rested(store)):
                    _save(store, journal, step, train_state)
                if last and not stopped:
                    _look(after_epoch, store, journal, train_state, step, epoch)
            if epoch == experiment.num_epochs > 0:
                if _rested(store):
                    _save(store, journal, step, train_state)
                _look(after_epoch, store, journal, train_state, step, epoch - 1)
            _save(store, journal, step, train_state)
            store.wait()
            late = caught()
            stopped = agreement.last(stopped or late)
            if stopped is not None:
                caught(stops=True)
    return FitResult(train_state, journal.history, stopped)


@contextlib.contextmanager
def _held(experiment, workdir):
    """Keeps other runs out of the workdir, which is or becomes this experiment's."""
    with folders.held_by_all(workdir):
        claim(experiment, workdir)
        yield


def _batches(experiment, mesh, step, per_epoch):
    """Yields the batches that are still due, where a step takes them; each process its own rows."""
    source, train = experiment.splits.source, experiment.splits.train
    mine = parallel.local_rows(mesh, experiment.batch_size)
    # One CPU: its programs take arrays of the host as they are, at no cost of their own.
    plain = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    for epoch in range(step // per_epoch, experiment.num_epochs):
        positions = experiment.sampler(experiment.seed, epoch)
        if len(positions) != per_epoch:
            raise InputError(
                f"the sampler must give as many batches every epoch, got {per_epoch} in the first "
                f"and {len(positions)} in epoch {epoch}"
            )
        for rows in positions[max(step - epoch * per_epoch, 0) :, mine]:
            batch = {**source[train[rows]], "index": rows.astype(np.int32)}
            yield batch if plain else parallel.put_rows(mesh, batch)


def _look(after_epoch, store, journal, train_state, step, epoch):
    """Logs what `after_epoch` finds, once for each epoch, and saves what has a "validation"."""
    records.settle(journal)
    if after_epoch is None:
        return
    there = processes.from_first(
        lambda: [each for each in journal.history[-1:] if each.get("after_epoch") == epoch]
    )
    if not there:
        began = time.perf_counter()
        found = after_epoch(train_state, epoch)
        seconds = round(time.perf_counter() - began, 3)
        about = {"step": step, "epoch": epoch, "after_epoch": epoch, "seconds": seconds}
        record = {**about, **{name: _plain(value) for name, value in found.items()}}
        # What one process found counts for all: what they do next hangs on it.
        there = processes.from_first(lambda: [record])
        records.log_record(journal, there[0])
        journal.clock.since += seconds
    store.values.update(validations(there))
    if step in store.values:
        _save(store, journal, step, train_state)


def _plain(value):
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None  # JSON has no other numbers


@contextlib.contextmanager
def _trace(workdir, profile):
    """Yields a function that is told every step, and traces those between the two of `profile`."""
    running = False

    def tell(step, train_state):
        nonlocal running
        if profile is None or workdir is None:
            return
        if step == profile[0]:
            jax.profiler.start_trace(workdir / "profile")
            running = True
        elif step == profile[1] and running:
            jax.block_until_ready(train_state)
            jax.profiler.stop_trace()
            running = False

    try:
        yield tell
    finally:
        if running:
            jax.profiler.stop_trace()


def _begin_epoch(experiment, train_state, epoch, mesh):
    plan = experiment.method.refresh
    ends = epoch == experiment.num_epochs
    if plan is not None and (plan.at_end if ends else plan.due(epoch)):
        train_state = refresh(experiment, train_state, epoch=epoch, mesh=mesh)
    return train_state._replace(epoch=parallel.put(mesh, np.int32(epoch)))


def _save(store, journal, step, train_state):
    records.settle(journal)
    _check_finite(train_state, step)
    records.sync(journal)
    store.save(step, train_state)


def _rested(store):
    """Returns whether the last save is so old that another costs next to nothing."""
    return processes.from_first(lambda: time.monotonic() - store.since >= _BETWEEN_SAVES)


_BETWEEN_SAVES = 10.0  # seconds: saving a small network takes two cores some 40 ms


def _check_finite(train_state, step):
    parts = {"params": train_state.params, "state": train_state.state}
    if _all_finite(parts):
        return
    wrong = [
        path.replace("/", " ", 1)  # params net/dense/kernel
        for path, finite in zip(paths(parts), _finite_leaves(parts), strict=True)
        if not finite
    ]
    others = f" and {len(wrong) - 1} other arrays are" if len(wrong) > 1 else " is"
    raise NonFiniteError(f"{wrong[0]}{others} not finite at step {step}")


_all_finite, _finite_leaves = jax.jit(all_finite), jax.jit(finite_leaves)


@contextlib.contextmanager
def _last_good(store):
    try:
        yield
    except NonFiniteError as error:
        latest = store.latest()
        good = "there is no checkpoint"
        if latest is not None:
            good = f"the last good checkpoint is step {latest} in {store.folder}"
        raise NonFiniteError(f"{error}; {good}; lower the learning rate") from None


def _check(experiment, mesh, *, log_every, keep):
    """Returns the steps of an epoch once sizes are known to fit."""
    parallel.check_divisible(mesh, experiment.batch_size)
    embedding.check_mesh(mesh)
    check_numbers(experiment)
    positions = experiment.sampler(experiment.seed, 0)
    if positions.ndim < 2 or positions.shape[1] != experiment.batch_size:
        raise InputError(
            f"the sampler must give positions [steps, {experiment.batch_size}], "
            f"got {positions.shape}"
        )
    for name, value in (("log_every", log_every), ("keep", keep)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    plan, rows = experiment.method.refresh, len(experiment.splits.train)
    if plan is not None and rows < plan.min_rows:
        raise InputError(
            f"there are fewer training rows than codewords: {rows} rows, at least "
            f"{plan.min_rows} are due; lower num_codewords or add training images"
        )
    check_method(experiment)
    return len(positions)
