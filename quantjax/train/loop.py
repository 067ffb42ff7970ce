"""The training loop `fit`, which runs any `Method` and contains no code of a particular paper."""

import contextlib
import math
import pathlib
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.data import embedding
from quantjax.errors import InputError, NonFiniteError
from quantjax.run import (
    checkpoint,
    console,
    metric_log,
    parallel,
    prefetch,
    processes,
    signals,
    workdirs,
)
from quantjax.run.compile_cache import keep_programs
from quantjax.train.experiment import (
    Experiment,
    TrainState,
    check_method,
    check_numbers,
    initialize,
    make_prepare,
)
from quantjax.train.kept import Kept, carried, carrying, goes_on_from
from quantjax.train.resume import about_run, claim, restored, validations
from quantjax.train.step import all_finite, finite_leaves, leaf_names, make_step, paths, refresh


class AfterEpoch(Protocol):
    """Function that measures the train state after every epoch.

    Every process calls it. The last call follows the run's last refresh.
    """

    def __call__(self, train_state: TrainState, epoch: int, /) -> dict[str, float]:
        """Returns measured values by name.

        They become a record with "after_epoch", null where they are not finite. The checkpoint
        whose "validation" is largest is kept.

        Args:
          train_state: At the end of the epoch.
          epoch: The epoch that ended, counted from 0.
        """
        ...


class Callback(Protocol):
    """Function that receives every logged record, in the first process."""

    def __call__(self, record: dict[str, Any], /) -> object:
        """Receives a record; the return value is ignored.

        Args:
          record: JSON values by name. After a step: "step", "epoch", "phase", "loss", "grad_norm",
            the metrics of the loss, and times. After an epoch: "step", "epoch", "after_epoch",
            "seconds", and the values that `AfterEpoch` returned.
        """
        ...


class FitResult(NamedTuple):
    """Result of `fit`: the final train state, the logged history, and a stop signal.

    Attributes:
      state: The final train state.
      history: Logged records, oldest first, those before a resume included; `history.to_frame()`
        is a pandas DataFrame.
      signal: Number of the signal that stopped the run, or that reached it at its end, or None.
    """

    state: TrainState
    history: metric_log.History
    signal: int | None

    def __repr__(self) -> str:
        end = "" if self.signal is None else f", stopped by {signal.Signals(self.signal).name}"
        return f"<FitResult: {self.state!r}, {self.history!r}{end}>"


def fit(
    experiment: Experiment,
    *,
    workdir: str | pathlib.Path | None = None,
    resume: bool = True,
    state: TrainState | None = None,
    parallelize: Callable[..., Any] = parallel.sharded_step,
    mesh: Mesh | None = None,
    callbacks: Sequence[Callback] = (),
    log_every: int = 10,
    checkpoint_every: int | None = None,
    keep: int = 3,
    after_epoch: AfterEpoch | None = None,
    skip_non_finite: bool = False,
    profile: tuple[int, int] | None = None,
    raise_on_signal: bool = False,
    progress: bool = True,
) -> FitResult:
    """Trains an experiment until its last epoch or a stop signal.

    With a workdir `fit` saves checkpoints, also on SIGTERM or Ctrl-C, writes metrics.jsonl, and
    resumes from the latest intact checkpoint. A signal, such as interrupting a notebook's cell,
    ends the run after the current step: `fit` prints a line and returns. A second signal stops at
    once. Several processes call `fit` with equal arguments; each reads the rows of its own devices,
    and the first process writes. Compiled programs are cached on disk, see `keep_programs`.

    Every error that leaves `fit`, also KeyboardInterrupt, has the attributes `history`, the records
    so far, and `state`. Without a workdir `state` is the finite train state at the end of the last
    epoch, in host memory; with a workdir it is None, because `restore` reads the state.

    Args:
      experiment: The experiment to run.
      workdir: Folder of checkpoints and metrics.jsonl, shared by all processes; nothing is written
        when None.
      resume: Whether to resume from the workdir's checkpoints; when False, a workdir with
        checkpoints raises ValueError, so that two runs do not mix.
      state: Train state to resume from, such as `FitResult.state` or an error's `state`; it is not
        changed. More epochs than before continue after the last epoch, and the refresh that ended
        the run stays. None starts at step 0, or from the workdir.
      parallelize: `run.parallel.sharded_step`, `run.parallel.pmapped_step`, or another
        function of the same arguments; the third argument augments and preprocesses a batch.
      mesh: Devices to run on; all of them when None.
      callbacks: Each is called with every logged record, a dict of JSON values; see `Callback`.
      log_every: Steps between two records; the last step of an epoch is always logged.
      checkpoint_every: Steps between two checkpoints, beside those after epochs that gave a
        "validation" and after those whose last checkpoint is ten seconds old.
      keep: Number of latest checkpoints to keep; the best by "validation" is kept as well, and the
        previous best until the next checkpoint is saved.
      after_epoch: See `AfterEpoch`.
      skip_non_finite: Whether a step whose loss or gradient is not finite is skipped, and counted
        in the records, where it would stop the run.
      profile: First step and the one after the last of a trace in the workdir's folder "profile".
      raise_on_signal: Whether a signal that stopped the run is raised once all is saved, so that
        the cells behind do not run: KeyboardInterrupt for SIGINT, `run.signals.Stopped` for
        SIGTERM, whose `state` is then that of the last step.
      progress: Whether a notebook or a terminal shows a bar with the latest loss and what
        `after_epoch` measured.

    Returns:
      Final state, history, and the signal that stopped the run, if one did.

    Raises:
      ValueError: if batch size, training rows, optimizers, a number, the state or the workdir do
        not fit, the method does not keep to its contract (see `methods.check`), or another run is
        at work in the workdir.
      DamagedError: if there are checkpoints and none can be read.
      OSError: if a checkpoint or a record cannot be written.
      NonFiniteError: if a loss, gradient, parameter or state is not finite; the message names the
        step, the array, such as net/dense/kernel, and the last good checkpoint or state.
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
            "goes on from a state": state is not None,
            "skip_non_finite": skip_non_finite,
            "looks after epochs": after_epoch is not None,
            "jax": jax.__version__,
        }
    )
    folder = None if workdir is None else workdir / "checkpoints"
    writes = workdir is not None and processes.is_first()
    kept = Kept(in_memory=workdir is None)
    with (
        signals.watch() as caught,
        _held(experiment, workdir),
        checkpoint.opened(folder, about, max_to_keep=keep) as store,
        carried(kept, store),
        console.progress(experiment, plain=False) if progress else _silence() as report,
    ):
        train_state = _started(experiment, mesh, store, state, resume=resume)
        kept.take(train_state)
        journal = _open_journal(
            experiment,
            train_state,
            per_epoch,
            workdir,
            [report, *callbacks],
            skip_non_finite=skip_non_finite,
        )
        kept.history = journal.history
        store.values.update(processes.from_first(lambda: [*validations(journal.history).items()]))
        steps = [
            parallelize(
                make_step(experiment, phase, skip_non_finite=skip_non_finite),
                mesh,
                make_prepare(experiment),
            )
            for phase in experiment.method.phases
        ]
        run = _Run(
            experiment=experiment,
            mesh=mesh,
            per_epoch=per_epoch,
            steps=steps,
            store=store,
            journal=journal,
            kept=kept,
            caught=caught,
            after_epoch=after_epoch,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
        )
        with _trace(workdir if writes else None, profile) as trace:
            train_state, stopped = _train(run, train_state, trace)
    result = FitResult(train_state, journal.history, stopped)
    if stopped is not None:
        _end_by_signal(result, experiment.num_epochs * per_epoch, workdir, raises=raise_on_signal)
    return result


class _Run(NamedTuple):
    """Objects of a run in progress."""

    experiment: Experiment
    mesh: Mesh
    per_epoch: int
    steps: list[Callable[..., Any]]
    store: checkpoint.Store
    journal: metric_log.Journal
    kept: Kept
    caught: Callable[..., int | None]
    after_epoch: AfterEpoch | None
    log_every: int
    checkpoint_every: int | None


def _started(experiment, mesh, store, state, *, resume):
    """Returns the train state that the run resumes from, or its first state."""
    start = initialize(experiment, mesh)
    if state is None:
        found = restored(store, experiment, start, resume=resume)
    else:
        if processes.from_first(store.latest) is not None:
            raise InputError(
                f"{store.folder} holds checkpoints, and a state is given too; leave state out to "
                "go on from them, or choose another workdir"
            )
        found = goes_on_from(state, start, mesh)
    step, epoch, per_epoch = int(found.step), int(found.epoch), store.about["steps per epoch"]
    num_epochs, plan = experiment.num_epochs, experiment.method.refresh
    if step > num_epochs * per_epoch:
        raise InputError(
            f"the state is {-(-step // per_epoch)} epochs along, more than num_epochs, {num_epochs}"
        )
    # A complete run counts this epoch as begun, but ran only a final refresh, so that a regular
    # refresh is still due. If the run had already done it, it gives the same codebooks again.
    ended = 0 < epoch < num_epochs and step == epoch * per_epoch
    if ended and plan is not None and plan.due(epoch) and not plan.at_end:
        found = _begin_epoch(experiment, found, epoch, mesh)
    return found


def _open_journal(experiment, train_state, per_epoch, workdir, callbacks, *, skip_non_finite):
    first, step = processes.is_first(), int(train_state.step)
    log_file = workdir / "metrics.jsonl" if workdir is not None and first else None
    checkpoints = workdir is not None and any((workdir / "checkpoints").glob("[0-9]*"))
    # Only warnings: the run is correct, but the user may have lost files by accident.
    if log_file is not None and step == 0 and log_file.exists():
        warnings.warn(
            f"{workdir / 'checkpoints'} holds no checkpoint: starting at step 0 again", stacklevel=3
        )
    if log_file is not None and step >= per_epoch and checkpoints and not log_file.exists():
        warnings.warn(
            f"{log_file} is gone: which checkpoint was the best is not known any more",
            stacklevel=3,
        )
    return metric_log.open_journal(
        log_file,
        callbacks if first else (),
        step,
        batch_size=experiment.batch_size,
        leaves={
            phase.name: leaf_names(train_state, phase, skip_non_finite=skip_non_finite)
            for phase in experiment.method.phases
        },
    )


def _train(run, train_state, trace):
    """Runs the remaining steps; returns the last state and the signal that stopped the run."""
    experiment, mesh, per_epoch, store, journal = run[:3] + run[4:6]
    phases, num_epochs = experiment.method.phases, experiment.num_epochs
    step, epoch = int(train_state.step), int(train_state.epoch)
    agreement = processes.Agreement(mesh)
    # Only a single process may stop without its next batch: other processes would wait for it.
    unless = None if processes.spans(mesh) else run.caught
    with prefetch.ahead(_batches(experiment, mesh, step, per_epoch)) as next_batch:
        stopped = agreement.say(run.caught())
        while not stopped and epoch < num_epochs:
            if step == (epoch + 1) * per_epoch:
                # A run stopped between an epoch's last step and its evaluation still evaluates it.
                if 0 <= epoch < num_epochs - 1:
                    _look(run, train_state, step, epoch)
                epoch += 1
                train_state = _begin_epoch(experiment, train_state, epoch, mesh)
                continue
            trace(step, train_state)
            try:
                batch, waited = next_batch(unless)
            except prefetch.GivenUpError:
                break
            metric_log.awaited(journal, waited)
            phase = experiment.method.phase_at(epoch)
            train_state, metrics = run.steps[phase](train_state, batch)
            step += 1
            record = {"step": step, "epoch": epoch, "phase": phases[phase].name}
            last = step == (epoch + 1) * per_epoch
            due = last or step % run.log_every == 0
            metric_log.note(journal, record, metrics, log=due)
            if last:
                _keep(run, step, train_state)
            # The last epoch is saved below, after the refresh that ends the run; a signal before
            # that refresh is too late to stop the run.
            if last and epoch + 1 == num_epochs:
                continue
            stopped = agreement.say(run.caught())
            asked = run.checkpoint_every and step % run.checkpoint_every == 0
            # Saved before the evaluation, which may outlast the patience of a job scheduler.
            if stopped or asked or (last and _rested(store)):
                _save(store, journal, step, train_state)
            if last and not stopped:
                _look(run, train_state, step, epoch)
        if epoch == num_epochs > 0:
            if _rested(store):
                _save(store, journal, step, train_state)
            _keep(run, step, train_state)
            _look(run, train_state, step, epoch - 1)
        _save(store, journal, step, train_state)
        # Saves run in the background; a signal during the last one must still be seen below.
        store.wait()
        late = run.caught()
        stopped = agreement.last(stopped or late)
        if stopped is not None:
            run.caught(stops=True)
    return train_state, stopped


def _keep(run, step, train_state):
    """Copies an epoch's last state to host memory, after checking that it is finite."""
    if run.kept.in_memory:
        metric_log.settle(run.journal)
        _check_finite(train_state, step)
        run.kept.take(train_state)


def _end_by_signal(result, num_steps, workdir, *, raises):
    """Prints that a signal ended the run, and raises the signal's error if requested."""
    name, step = signal.Signals(result.signal).name, int(result.state.step)
    where = "error.state" if raises else "result.state"
    again = f"the same command goes on from there ({workdir})"
    if workdir is None:
        again = f"fit(experiment, state={where}) goes on from there"
    if processes.is_first():
        print(f"stopped by {name} at step {step}; {again}", flush=True)
    if raises:
        error = KeyboardInterrupt() if name == "SIGINT" else signals.Stopped(result.signal)
        raise carrying(error, Kept(in_memory=True, history=result.history, state=result.state))


@contextlib.contextmanager
def _silence():
    """Yields a callback that does nothing."""
    yield lambda record: None


@contextlib.contextmanager
def _held(experiment, workdir):
    """Locks the workdir against other runs and claims it for this experiment."""
    with workdirs.held_by_all(workdir):
        claim(experiment, workdir)
        yield


def _batches(experiment, mesh, step, per_epoch):
    """Yields the remaining batches, on device; each process yields its own rows."""
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


def _look(run, train_state, step, epoch):
    """Logs the values of `after_epoch` once per epoch, and saves states with a "validation"."""
    journal, store = run.journal, run.store
    metric_log.settle(journal)
    if run.after_epoch is None:
        return
    there = processes.from_first(
        lambda: [each for each in journal.history[-1:] if each.get("after_epoch") == epoch]
    )
    if not there:
        began = time.perf_counter()
        found = run.after_epoch(train_state, epoch)
        seconds = round(time.perf_counter() - began, 3)
        about = {"step": step, "epoch": epoch, "after_epoch": epoch, "seconds": seconds}
        record = {**about, **{name: _plain(value) for name, value in found.items()}}
        # All processes take the first one's values, because what they do next depends on them.
        there = processes.from_first(lambda: [record])
        metric_log.log_record(journal, there[0])
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
    """Yields a function to call at every step, which traces the steps named by `profile`."""
    running = False

    def tell(step, train_state):
        nonlocal running
        if profile is None or workdir is None:
            return
        if step == profile[0]:
            jax.profiler.start_trace(workdir / "profile")
            running = True
        # Steps run asynchronously: without the wait the trace would miss their work.
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
    metric_log.settle(journal)
    _check_finite(train_state, step)
    metric_log.sync(journal)
    store.save(step, train_state)


def _rested(store):
    """Returns whether the last save is so old that another save costs almost nothing."""
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


def _check(experiment, mesh, *, log_every, keep):
    """Checks that all sizes fit, and returns the steps of an epoch."""
    parallel.check_divisible(mesh, experiment.batch_size)
    embedding.check_mesh(mesh)
    check_numbers(experiment)
    # Only the first epoch here; `_batches` checks later epochs when they come.
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
