"""The training loop `fit`, which runs any `Method` and contains no code of a particular paper."""

import contextlib
import dataclasses
import math
import pathlib
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.errors import InputError
from quantjax.run import (
    checkpoint,
    console,
    metric_log,
    parallel,
    prefetch,
    processes,
    signals,
)
from quantjax.run.compile_cache import keep_programs
from quantjax.run.paths import user_path
from quantjax.train.checkpoints import validations
from quantjax.train.experiment import Experiment, TrainState, check, make_prepare
from quantjax.train.resume import (
    LastGood,
    about_run,
    attach,
    attached,
    claimed,
    start_state,
)
from quantjax.train.step import check_finite, leaf_names, make_step, refresh

_BETWEEN_SAVES = 10.0  # seconds: saving a small network takes two cores some 40 ms


class AfterEpoch(Protocol):
    """Function that measures the train state after every epoch.

    Every process calls it. The last call follows the run's last refresh.
    """

    def __call__(self, train_state: TrainState, epoch: int, /) -> dict[str, float]:
        """Returns measured values by name.

        They are logged as one record, which also has "after_epoch"; a value that is not finite is
        logged as null. The checkpoint with the largest value named "validation" is kept.

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


class AtStart(Protocol):
    """Function that learns where a run starts, in every process."""

    def __call__(self, step: int, num_steps: int, /) -> object:
        """Receives the step; the return value is ignored, and an error ends the run.

        Args:
          step: The step that the run starts at, 0 for a new run, `num_steps` for a complete run.
          num_steps: Steps of the whole run.
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
    at_start: AtStart | None = None,
    after_epoch: AfterEpoch | None = None,
    skip_non_finite: bool = False,
    profile: tuple[int, int] | None = None,
    raise_on_signal: bool = False,
    progress: bool = True,
) -> FitResult:
    """Trains an experiment until its last epoch or a stop signal.

    With a workdir `fit` saves checkpoints, also on SIGTERM or Ctrl-C, writes metrics.jsonl, and
    resumes from the latest intact checkpoint. A signal, such as interrupting a notebook's cell,
    ends the run after the current step: `fit` prints a line and returns. A second Ctrl-C stops at
    once. Several processes call `fit` with equal arguments; each reads the rows of its own devices,
    and the first process writes. Compiled programs are cached on disk, see `keep_programs`.

    Every error that leaves `fit`, also KeyboardInterrupt, has the attributes `history`, the records
    so far, and `state`. Without a workdir `state` is the finite train state at the end of the last
    epoch, or of the last `checkpoint_every` steps, in host memory; with a workdir it is None,
    because `restore` reads the state.

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
      checkpoint_every: Steps between two checkpoints. A checkpoint is also saved after an epoch for
        which `after_epoch` returned "validation", and after an epoch that ends ten seconds or more
        after the last save began.
      keep: Number of latest checkpoints to keep; the best by "validation" is kept as well, and the
        previous best until the next checkpoint is saved.
      at_start: Called before the first step, and before records of later steps are dropped; see
        `AtStart`.
      after_epoch: See `AfterEpoch`.
      skip_non_finite: Whether a step whose loss or gradient is not finite is skipped, and counted
        in the records, instead of stopping the run.
      profile: First step of a profiler trace and the step after its last; the trace is written to
        the workdir's folder "profile".
      raise_on_signal: Whether a signal that stopped the run is raised once all is saved, so that
        the next cells of a notebook do not run: KeyboardInterrupt for SIGINT, `run.signals.Stopped`
        for SIGTERM. The error's `state` is then that of the last step.
      progress: Whether a notebook or a terminal shows a bar with the latest loss and the latest
        values of `after_epoch`.

    Returns:
      Final state, history, and the number of the signal that stopped the run, or None.

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
    options = _Options(
        workdir=None if workdir is None else user_path(workdir), resume=resume, state=state,
        parallelize=parallelize, callbacks=callbacks, log_every=log_every, keep=keep,
        checkpoint_every=checkpoint_every, at_start=at_start, after_epoch=after_epoch,
        progress=progress, skip_non_finite=skip_non_finite, profile=profile,
    )  # fmt: skip
    mesh = parallel.data_mesh() if mesh is None else mesh
    with _open_run(experiment, mesh, options) as (run, train_state):
        # A resumed run enters the epoch in which it was stopped. Each function below therefore
        # skips work that was done before the stop.
        for epoch in range(run.first_epoch, experiment.num_epochs):
            train_state = _begin_epoch(run, train_state, epoch)
            for batch in _remaining_batches(run, epoch):
                train_state = _take_step(run, train_state, batch, epoch)
                if _must_stop(run):
                    break
            # An epoch that a signal cut short has not ended: the resumed run ends it.
            if run.stopped is not None:
                break
            train_state = _end_epoch(run, train_state, epoch)
        _end_run(run, train_state)
    result = FitResult(train_state, run.journal.history, run.stopped)
    if result.signal is not None:
        _report_signal(result, run, raises=raise_on_signal)
    return result


class _Options(NamedTuple):
    """The arguments of `fit` that its steps read; `fit` explains them."""

    workdir: pathlib.Path | None
    resume: bool
    state: TrainState | None
    parallelize: Callable[..., Any]
    callbacks: Sequence[Callback]
    log_every: int
    keep: int
    checkpoint_every: int | None
    at_start: AtStart | None
    after_epoch: AfterEpoch | None
    progress: bool
    skip_non_finite: bool
    profile: tuple[int, int] | None


@dataclasses.dataclass
class _Run:
    """A run in progress.

    Attributes:
      experiment: The experiment.
      mesh: Its devices.
      options: The arguments of `fit` that the functions below read, by name.
      steps_per_epoch: Number of steps of an epoch.
      step_functions: Compiled step of each phase.
      store: Its checkpoints.
      journal: Its records.
      last_good: History and last saved state, which an error that leaves `fit` carries.
      caught: Returns the number of a signal that this process has caught, or None.
      agreement: Lets all processes stop at the same step.
      next_batch: Returns the next batch and the seconds of waiting for it.
      trace: Exit stack that is open while the profiler traces, and ends the trace.
      first_epoch: Epoch that the run starts or resumes in.
      step: Steps taken. The train state has this number too, but to read it would wait for the
        devices.
      saved: Step of the last state that was saved, or None.
      stopped: Number of the signal that stopped the run, or None.
      began: Time when `fit` was called.
      compiled: Phases whose step was compiled already.
    """

    experiment: Experiment
    mesh: Mesh
    options: _Options
    steps_per_epoch: int
    step_functions: list[Callable[..., Any]]
    store: checkpoint.Store
    journal: metric_log.Journal
    last_good: LastGood
    caught: Callable[..., int | None]
    agreement: processes.Agreement
    next_batch: Callable[..., tuple[Any, float]]
    trace: contextlib.ExitStack
    first_epoch: int
    step: int
    began: float
    saved: int | None = None
    stopped: int | None = None
    compiled: set[int] = dataclasses.field(default_factory=set)


def _begin_epoch(run, train_state, epoch):
    """Runs the refresh that is due before an epoch; does nothing if the epoch has begun already."""
    if int(train_state.epoch) >= epoch:
        return train_state
    plan = run.experiment.method.refresh
    if plan is not None and plan.due(epoch):
        with metric_log.left_out(run.journal, "refresh_seconds"):
            train_state = refresh(run.experiment, train_state, epoch=epoch, mesh=run.mesh)
            jax.block_until_ready(train_state)
    return train_state._replace(epoch=parallel.put(run.mesh, np.int32(epoch)))


def _remaining_batches(run, epoch):
    """Yields the batches of an epoch that no step has used yet; stops early at a signal."""
    # Only a single process may stop without its next batch: other processes would wait for it.
    unless = None if processes.spans(run.mesh) else run.caught
    while run.step < (epoch + 1) * run.steps_per_epoch and run.stopped is None:
        try:
            batch, waited = run.next_batch(unless)
        except prefetch.GivenUpError:
            run.stopped = run.caught()
            return
        metric_log.record_wait(run.journal, waited)
        yield batch


def _take_step(run, train_state, batch, epoch):
    """Takes one step, queues its metrics, and saves the state if `checkpoint_every` says so."""
    _trace(run, train_state)
    phase = run.experiment.method.phase_at(epoch)
    if phase in run.compiled:
        train_state, metrics = run.step_functions[phase](train_state, batch)
    else:
        train_state, metrics = _first_step(run, train_state, batch, phase)
    run.step += 1
    ends_epoch = run.step % run.steps_per_epoch == 0
    name = run.experiment.method.phases[phase].name
    record = {"step": run.step, "epoch": epoch, "phase": name}
    due = ends_epoch or run.step % run.options.log_every == 0
    metric_log.queue(run.journal, record, metrics, log=due)
    # The state of an epoch's last step is saved by `_end_epoch`, or by `_end_run` after a signal.
    if not ends_epoch and _is_checkpoint_step(run):
        _save(run, train_state)
    return train_state


def _first_step(run, train_state, batch, phase):
    """Takes the first step of a phase, and notes the times of compiling and of the first of all."""
    with metric_log.left_out(run.journal, "compile_seconds"):
        stepped = run.step_functions[phase](train_state, batch)
    if not run.compiled:
        jax.block_until_ready(stepped)
        metric_log.note(run.journal, "first_step_seconds", time.perf_counter() - run.began)
    run.compiled.add(phase)
    return stepped


def _trace(run, train_state):
    """Begins and ends the trace of the steps that `profile` names, in the first process."""
    first, end = run.options.profile or (None, None)
    workdir = run.options.workdir
    if run.step == first and workdir is not None and processes.is_first():
        run.trace.enter_context(jax.profiler.trace(workdir / "profile"))
    elif run.step == end:
        # Steps run asynchronously: without the wait the trace would miss their work.
        jax.block_until_ready(train_state)
        run.trace.close()


def _is_checkpoint_step(run):
    every = run.options.checkpoint_every
    return every is not None and run.step % every == 0


def _must_stop(run):
    """Returns whether a signal stops the run, as agreed among all processes."""
    # After the run's last step it is too late: the refresh that ends the run must still come.
    if run.step < run.experiment.num_epochs * run.steps_per_epoch:
        run.stopped = run.agreement.exchange(run.caught())
    return run.stopped is not None


def _end_epoch(run, train_state, epoch):
    """Ends an epoch: refreshes if it is the last, saves the state, and measures it."""
    if epoch + 1 == run.experiment.num_epochs:
        # The rate of the last steps leaves the refresh out.
        metric_log.flush(run.journal)
        train_state = _last_refresh(run.experiment, train_state, run.mesh)
    # Saved before the evaluation, during which a job scheduler may kill the run.
    if run.last_good.in_memory or _is_checkpoint_step(run) or _save_is_old(run.store):
        _save(run, train_state)
    _evaluate_epoch(run, train_state, epoch)
    return train_state


def _last_refresh(experiment, train_state, mesh):
    """Runs the refresh that ends a run, unless this was done before a restart."""
    num_epochs, plan = experiment.num_epochs, experiment.method.refresh
    if int(train_state.epoch) >= num_epochs:
        return train_state
    if plan is not None and plan.at_end:
        train_state = refresh(experiment, train_state, epoch=num_epochs, mesh=mesh)
    # A complete run has num_epochs as its epoch.
    return train_state._replace(epoch=parallel.put(mesh, np.int32(num_epochs)))


def _save_is_old(store):
    """Returns whether the last save is so old that another save costs almost nothing."""
    # Clocks of several processes differ, but they must save together: the first decides.
    return processes.from_first(lambda: time.monotonic() - store.since >= _BETWEEN_SAVES)


def _save(run, train_state):
    """Saves a finite state: into the workdir, or into host memory without one."""
    metric_log.flush(run.journal)
    metric_log.sync(run.journal)
    if run.saved == run.step:
        return
    with metric_log.left_out(run.journal, "save_seconds"):
        check_finite(train_state, run.step)
        run.store.save(run.step, train_state)
        run.last_good.take(train_state)
    run.saved = run.step


def _evaluate_epoch(run, train_state, epoch):
    """Logs the values of `after_epoch` once per epoch, and saves states with a "validation"."""
    journal = run.journal
    metric_log.flush(journal)
    if run.options.after_epoch is None:
        return
    # A resumed run has the record already, unless it was stopped before the evaluation.
    records = processes.from_first(
        lambda: [each for each in journal.history[-1:] if each.get("after_epoch") == epoch]
    )
    if not records:
        began = time.perf_counter()
        found = run.options.after_epoch(train_state, epoch)
        seconds = round(time.perf_counter() - began, 3)
        about = {"step": run.step, "epoch": epoch, "after_epoch": epoch, "seconds": seconds}
        record = {**about, **{name: _as_json(value) for name, value in found.items()}}
        # All processes take the first one's values, because what they do next depends on them.
        records = processes.from_first(lambda: [record])
        metric_log.log_record(journal, records[0])
        # The time of the evaluation does not count in the rate of the next steps.
        journal.clock.since += seconds
    run.store.values.update(validations(records))
    if run.step in run.store.values:
        _save(run, train_state)


def _as_json(value):
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None  # JSON has no other numbers


def _end_run(run, train_state):
    """Saves the last state, and lets all processes agree on the signal that ended the run."""
    _save(run, train_state)
    # Saves run in the background; a signal during the last one must still be seen below.
    run.store.wait()
    run.stopped = run.agreement.at_end(run.stopped or run.caught())
    if run.stopped is not None:
        run.caught(stops=True)


def _report_signal(result, run, *, raises):
    """Prints that a signal ended the run, and raises the signal's error if requested."""
    name, workdir = signal.Signals(result.signal).name, run.options.workdir
    again = f"the same command goes on from there ({workdir})"
    if workdir is None:
        where = "error.state" if raises else "result.state"
        again = f"fit(experiment, state={where}) goes on from there"
    if processes.is_first():
        console.say(f"stopped by {name} at step {run.step}; {again}")
    if raises:
        error = KeyboardInterrupt() if name == "SIGINT" else signals.Stopped(result.signal)
        raise attach(error, LastGood(True, history=result.history, state=result.state))


@contextlib.contextmanager
def _open_run(experiment, mesh, options) -> Generator[tuple[_Run, TrainState]]:
    """Checks a run, opens its workdir, and yields the run with the state it starts from."""
    began = time.perf_counter()
    about = _check(experiment, mesh, options)
    workdir, steps_per_epoch = options.workdir, about["steps per epoch"]
    last_good = LastGood(in_memory=workdir is None)
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(signals.watch())
        folder = None
        if workdir is not None:
            stack.enter_context(claimed(experiment, workdir))
            folder = workdir / "checkpoints"
        store = stack.enter_context(checkpoint.opened(folder, about, max_to_keep=options.keep))
        stack.enter_context(attached(last_good, store))
        callbacks = [*options.callbacks]
        if options.progress:
            bar = console.progress(experiment, plain=False)
            callbacks.insert(0, stack.enter_context(bar))
        train_state = _start(experiment, mesh, store, options)
        # An error in the first epoch also leaves a state to go on from.
        last_good.take(train_state)
        step, epoch = int(train_state.step), int(train_state.epoch)
        if options.at_start is not None:
            options.at_start(step, experiment.num_epochs * steps_per_epoch)
        journal = _open_journal(experiment, train_state, steps_per_epoch, options, callbacks)
        last_good.history = journal.history
        # From the first process, which alone reads and writes the records.
        store.values.update(processes.from_first(lambda: [*validations(journal.history).items()]))
        batches = _batches(experiment, mesh, step, steps_per_epoch)
        run = _Run(
            experiment=experiment,
            mesh=mesh,
            options=options,
            steps_per_epoch=steps_per_epoch,
            step_functions=_compiled_steps(experiment, mesh, options),
            store=store,
            journal=journal,
            last_good=last_good,
            caught=caught,
            agreement=processes.Agreement(mesh),
            trace=stack.enter_context(contextlib.ExitStack()),
            next_batch=stack.enter_context(prefetch.prefetched(batches)),
            # A complete run enters its last epoch again, for an evaluation that may be missing.
            first_epoch=max(min(epoch, experiment.num_epochs - 1), 0),
            step=step,
            began=began,
        )
        run.stopped = run.agreement.exchange(caught())
        yield run, train_state


def _check(experiment, mesh, options):
    """Checks that sizes, devices and processes fit, and returns `about_run`."""
    parallel.check_divisible(mesh, experiment.batch_size)
    check(experiment)
    for name, value in (("log_every", options.log_every), ("keep", options.keep)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    about = about_run(experiment)
    # Processes with other settings would take other steps, and wait for each other for ever.
    # What only the first process does may differ: it alone calls back, draws the bar and traces.
    settings = {
        name: value if isinstance(value, int) else value is not None
        for name, value in options._asdict().items()
        if name not in ("callbacks", "progress", "profile")
    }
    same = {"num_epochs": experiment.num_epochs, "jax": jax.__version__}
    processes.check_same({**about, **settings, **same})
    return about


def _start(experiment, mesh, store, options):
    """Returns the state to start from, after a refresh that no epoch of the run would do."""
    found = start_state(experiment, mesh, store, options.state, resume=options.resume)
    if experiment.num_epochs == 0:
        return _last_refresh(experiment, found, mesh)
    step, epoch, plan = int(found.step), int(found.epoch), experiment.method.refresh
    # A complete run counts this epoch as begun, but ran only a final refresh, so that a regular
    # refresh is still due. If the run had already done it, it gives the same codebooks again.
    ended = 0 < epoch < experiment.num_epochs and step == epoch * store.about["steps per epoch"]
    if ended and plan is not None and plan.due(epoch) and not plan.at_end:
        return refresh(experiment, found, epoch=epoch, mesh=mesh)
    return found


def _open_journal(experiment, train_state, steps_per_epoch, options, callbacks):
    workdir, first, step = options.workdir, processes.is_first(), int(train_state.step)
    log_file = None
    if workdir is not None and first:
        log_file, folder = workdir / "metrics.jsonl", workdir / "checkpoints"
        # Only warnings: the run is correct, but the user may have lost files by accident.
        if step == 0 and log_file.exists():
            warnings.warn(f"{folder} holds no checkpoint: starting at step 0 again", stacklevel=5)
        if step >= steps_per_epoch and any(folder.glob("[0-9]*")) and not log_file.exists():
            lost = f"{log_file} is gone: which checkpoint was the best is not known any more"
            warnings.warn(lost, stacklevel=5)
    leaves = {
        phase.name: leaf_names(train_state, phase, skip_non_finite=options.skip_non_finite)
        for phase in experiment.method.phases
    }
    callbacks = callbacks if first else ()
    batch_size = experiment.batch_size
    return metric_log.open_journal(log_file, callbacks, step, batch_size=batch_size, leaves=leaves)


def _compiled_steps(experiment, mesh, options):
    """Returns the step of each phase, which compiles at its first call."""
    prepare, skips = make_prepare(experiment), {"skip_non_finite": options.skip_non_finite}
    steps = [make_step(experiment, phase, **skips) for phase in experiment.method.phases]
    return [options.parallelize(step, mesh, prepare) for step in steps]


def _batches(experiment, mesh, step, steps_per_epoch) -> Iterator[Any]:
    """Yields the remaining batches, on device; each process yields its own rows."""
    source, train = experiment.splits.source, experiment.splits.train
    mine = parallel.local_rows(mesh, experiment.batch_size)
    # One CPU: its programs take arrays of the host as they are, at no cost of their own.
    plain = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    for epoch in range(step // steps_per_epoch, experiment.num_epochs):
        positions = experiment.sampler(experiment.seed, epoch)
        if len(positions) != steps_per_epoch:
            raise InputError(
                "the sampler must give as many batches every epoch, got "
                f"{steps_per_epoch} in the first and {len(positions)} in epoch {epoch}"
            )
        for rows in positions[max(step - epoch * steps_per_epoch, 0) :, mine]:
            batch = {**source[train[rows]], "index": rows.astype(np.int32)}
            yield batch if plain else parallel.put_rows(mesh, batch)
