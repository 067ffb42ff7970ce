"""Runs an experiment file from the command line: trains, evaluates, saves codes and results."""

import contextlib
import difflib
import faulthandler
import functools
import json
import pathlib
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from quantjax import data, evaluate, index, report, train
from quantjax.errors import InputError, QuantjaxError, is_one_line
from quantjax.report import revision
from quantjax.run import console, parallel, prefetch, processes, signals, workdirs, writers

TRY_AGAIN = 75
"""Exit code of a run that saved its state after a signal of `signals.POLITE`, or lost a peer:
EX_TEMPFAIL of sysexits.h."""

BASELINE_FAILED = 3
"""Exit code of a run whose method was measured but a baseline of which failed."""


class Baselines(Protocol):
    """Returns the baselines that a trained method is compared with, on the same split."""

    def __call__(
        self, experiment: train.Experiment, mesh: Any, trained: train.TrainState, /
    ) -> dict[str, Callable[[], evaluate.Results]]:
        """Returns a dict from baseline names to functions without arguments that measure them.

        Args:
          experiment: The experiment that was run.
          mesh: From `run.parallel.data_mesh`.
          trained: The train state at the end of the run.
        """
        ...


def main(
    get_config: Callable[..., ConfigDict],
    build: Callable[..., train.Experiment],
    baselines: Baselines,
    *,
    title: str,
    data_sets: Mapping[str, Any] = MappingProxyType({}),
    sweep: Callable[[], Iterable[dict[str, Any]]] | None = None,
    variants: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    argv: Sequence[str] | None = None,
) -> None:
    """Runs an experiment file: parses flags, trains or resumes, evaluates, prints the table.

    Exits with 2 for a wrong flag, 1 for an error, 3 if only a baseline failed, 75 after SIGTERM,
    SIGHUP, SIGUSR1 or the loss of another process, which job schedulers take as "try again", and
    130 after Ctrl-C. After these signals the state is saved, and the same command resumes the run.
    SIGQUIT prints the stacks of all threads. Errors of `quantjax.errors` and of a disk that
    cannot be written to are printed as one line, all others with their traceback, in every process.

    Args:
      get_config: Returns the default config; `--config.KEY=VALUE` overrides its values.
      build: Function of the config that returns the experiment.
      baselines: Function that returns the baselines that the method must beat; see `Baselines`.
      title: Name of the method in the table.
      data_sets: Data sets by name, if the file has several. The first argument of the command
        line then chooses one, and `get_config(name)` and `build(config, name)` take it.
      sweep: Yields overrides of the config; `--sweep` prints a command for each and runs nothing.
      variants: Overrides of the config by name, such as an ablation's. `--variant=NAME` applies
        them first, so `--config.KEY=VALUE` overrides them too.
      argv: Command line; `sys.argv` when None.
    """
    words = list(sys.argv if argv is None else argv)
    try:
        argv, get_config, build = _on_data_set(words, get_config, build, data_sets)
        if "--sweep" in argv:
            _print_sweep(words, get_config(), sweep)
            return
        config, options, start = _parse(*_vary(argv, get_config(), variants))
    except QuantjaxError as error:
        sys.exit(_complain(error, 2))
    with console.surviving_output():
        status = _run_guarded(config, build, baselines, title, options, start)
    if status:
        sys.exit(status)


def _run_guarded(config, build, baselines, title, options, start):
    """Starts the processes and the run; returns the exit status, or raises a program's fault."""
    fit = functools.partial(train.fit, **{name: options.pop(name) for name in _FIT_FLAGS})
    debug = options["debug"] = options["debug"] or start["debug_nans"] or start["debug_leaks"]
    # Handlers first: a signal during the start must end all processes as one in training does.
    try:
        with signals.ending():
            _start(start)
            status = run(config, build, baselines, title=title, fit=fit, **options)
    except signals.Stopped as error:
        console.say(f"stopped by {signal.Signals(error.number).name}; what was trained is saved")
        processes.leave(_code(error.number), at_once=prefetch.abandoned())
    except BaseException as error:
        if (lost := processes.lost_peer(error)) and not debug:
            processes.leave(_complain(f"{lost}; start all processes again", TRY_AGAIN))
        if is_one_line(error) and not debug:
            processes.leave(_complain(error, 1), at_once=prefetch.abandoned())
        # A plain raise would wait at exit for other processes, or for a blocked prefetch thread.
        if not (processes.several() or prefetch.abandoned()):
            raise
        traceback.print_exc()
        processes.leave(1, at_once=True)
    if status and prefetch.abandoned():
        processes.leave(status, at_once=True)
    return status


def _start(options):
    """Sets JAX's debugging flags and connects the processes, before any use of JAX."""
    nans, leaks, deterministic = (options.pop(key) for key in _JAX_FLAGS)
    for name, wanted in (("jax_debug_nans", nans), ("jax_check_tracer_leaks", leaks)):
        if wanted:
            jax.config.update(name, True)
    if deterministic:
        processes.repeat_bits()
    # kill -QUIT prints the stacks of all threads, of a run that seems to hang.
    with contextlib.suppress(OSError):  # standard error may be closed
        faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    processes.start(**options)
    processes.check_same({"deterministic": deterministic})
    if not processes.is_first():
        console.silence()
    train.keep_programs()


def _code(number):
    return TRY_AGAIN if number in signals.POLITE else 128 + number


def run(
    config: ConfigDict,
    build: Callable[[ConfigDict], train.Experiment],
    baselines: Baselines,
    *,
    title: str,
    workdir: str | pathlib.Path | None = None,
    validate_every: int = 0,
    allow_query_overlap: bool = False,
    max_equal_images: float = 0.01,
    draw_report: bool = True,
    tensorboard: bool = False,
    wandb: bool = False,
    debug: bool = False,
    fit: Callable[..., train.FitResult] = train.fit,
) -> int:
    """Audits the split, trains or resumes, then writes codes and results into the workdir.

    Args:
      config: From the experiment's `get_config`, with overrides.
      build: Config -> experiment.
      baselines: Baselines that the method must beat.
      title: Name of the method in the table.
      workdir: Created if it does not exist; `runs/NAME-DIGEST` when None.
      validate_every: Epochs between two evaluations on the validation set, 0 for none.
      allow_query_overlap: Whether to continue although queries are in another list; the results
        record it.
      max_equal_images: Share of the queries that may have an equal image in another list; the names
        of all equal images are written into the workdir's equal_images.txt.
      draw_report: Whether to write report.html into the workdir at the end.
      tensorboard: Whether to write curves for TensorBoard, see `run.writers.opened`.
      wandb: Whether to record curves with Weights & Biases, see `run.writers.opened`.
      debug: Whether to show the traceback of a baseline that fails.
      fit: `train.fit`, or a `functools.partial` of it with further options.

    Returns:
      The exit status: 0, that of the signal that stopped the run, or `BASELINE_FAILED`.

    Raises:
      ValueError: if the workdir holds another experiment's config, or input does not fit.
    """
    began = time.perf_counter()
    experiment = build(config)._replace(config=json.loads(config.to_json()))
    # Before anything is written: a run that would end without codes must leave no folder.
    curves = {"tensorboard": tensorboard, "wandb": wandb}
    notes = [*train.left_out(experiment), *data.label_notes(experiment.splits)]
    about = train.about_workdir(experiment)
    workdir = pathlib.Path(workdir or f"runs/{experiment.name}-{workdirs.digest(about)[:8]}")
    same = {"split": experiment.splits.digest, "validate_every": validate_every}
    processes.check_same({**workdirs.without_places(about["config"]), **same})
    # Before the lock, which would put a file into a folder of other things.
    processes.from_first(functools.partial(workdirs.check_free, workdir))
    with workdirs.held_by_all(workdir):
        processes.from_first(functools.partial(workdirs.claim, workdir, about))
        # After the lock, so that a run that cannot start prints only its error.
        console.announce(experiment, workdir)
        for line in notes:
            console.say(f"note: {line}")
        audited = _audit(experiment, workdir, allow_query_overlap, max_equal_images)
        mesh = parallel.data_mesh()
        with console.progress(experiment) as bar, _writers(workdir, about, curves) as written:
            result = fit(
                experiment,
                workdir=workdir,
                mesh=mesh,
                callbacks=[bar, *written],
                after_epoch=evaluate.watcher(experiment, every=validate_every, mesh=mesh),
                progress=False,
            )
        # Nothing is measured after a signal: a job scheduler kills soon after it.
        if result.signal is not None:  # which `fit` has said
            return _code(result.signal)
        measured = _Measured(experiment, result.state, mesh, workdir, title, debug)
        retrieval, failed = _measure(measured, baselines, audited)
        if draw_report and processes.is_first():
            _draw_report(measured, retrieval, time.perf_counter() - began)
    console.say(f"{time.perf_counter() - began:.1f} s; everything is in {workdir}")
    return BASELINE_FAILED if failed else 0


def _audit(experiment, workdir, allow_query_overlap, max_equal_images):
    """Audits the split, with the names of equal images in a file of the workdir."""
    # Processes that allow different things would not all stop at the same finding.
    allowed = {"allow_query_overlap": allow_query_overlap, "max_equal_images": max_equal_images}
    processes.check_same(allowed)
    listing = workdir / "equal_images.txt"
    audited = data.audit(experiment.splits, **allowed, listing=listing)
    console.report_audit(audited)
    if listing.exists():
        console.say(f"equal images are listed in {listing}")
    return audited


class _Measured(NamedTuple):
    """A trained experiment that is measured, its workdir, and the name of its results."""

    experiment: train.Experiment
    trained: train.TrainState
    mesh: Any
    workdir: pathlib.Path
    title: str
    debug: bool


def _measure(run, baselines, audited):
    """Writes codes and results to the workdir; returns the retrieval and the failed baselines."""
    console.say("evaluating")
    experiment, splits = run.experiment, run.experiment.splits
    retrieval = evaluate.evaluate_method(
        experiment, run.trained, mesh=run.mesh, name=run.title, audited=audited
    )
    for line in retrieval.unmeasured:
        console.say(line)
    about = {
        "experiment": experiment.name,
        "protocol": splits.name,
        "split": splits.digest,
        "seed": experiment.seed,
        "audit": audited._asdict(),
    }
    results = [*retrieval.results]
    # Written before the baselines, which may run out of memory or fail, and again with them.
    if processes.is_first():
        index.save(run.workdir, retrieval.codec, retrieval.codes, ids=splits.database)
        evaluate.write_results(run.workdir, results, about)
        _leave_encoder(run)
    measured, failed = _baselines(baselines(experiment, run.mesh, run.trained), debug=run.debug)
    results += measured
    if processes.is_first():
        evaluate.write_results(run.workdir, results, about)
    # All wait here for process 0: at exit, JAX would wait for it a few minutes at most.
    failed = processes.all_agree(failed)
    console.table(results)
    return retrieval, failed


def _leave_encoder(run):
    """Writes the encoder; a failure prints one line, as not every network can be exported."""
    try:
        train.save_encoder(run.experiment, run.trained, run.workdir / "encoder")
    except Exception as error:
        console.say(f"no encoder: {_reason(error, debug=run.debug)}")


def _draw_report(run, retrieval, seconds):
    """Writes report.html; a failure prints one line, so that no run fails for a plot."""
    command = shlex.join([*_program(sys.argv), *sys.argv[1:]])
    facts = {"seconds": round(seconds, 1), "commit": revision.commit(), "command": command}
    try:
        report.keep(run.workdir, run.experiment, run.trained, retrieval, about=facts)
        console.say(f"report: {report.write(run.workdir)}")
    except Exception as error:
        console.say(f"no report: {_reason(error, debug=run.debug)}")


def _reason(error, *, debug):
    """Returns an error as one line; with debug also prints its traceback."""
    # The run goes on after this error, so that only a developer wants its traceback.
    if debug:
        traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _baselines(baselines, *, debug):
    """Measures the baselines; returns their results and the number of failures."""
    found = []
    for name, measure in baselines.items():
        try:
            found.append(measure())
        except Exception as error:
            # An error that not all processes share would leave the others waiting for this one.
            if processes.several() and not isinstance(error, QuantjaxError):
                raise
            _complain(f"baseline {name} failed, {_reason(error, debug=debug)}", 0)
    return found, len(baselines) - len(found)


def _program(argv):
    """Returns the words that start this program from a shell, without its arguments."""
    # `python -m NAME` leaves only a path in argv; the spec still has the module's name.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", *argv[:1]]


def _print_sweep(argv, config, sweep):
    if sweep is None:
        sys.exit(_complain("this experiment has no sweep()", 2))
    # The commands repeat what was typed, so that the sweep runs with the same options.
    program = _program(argv)
    rest = [argument for argument in argv[1:] if argument != "--sweep"]
    if any(argument.startswith("--workdir") for argument in rest):
        sys.exit(_complain("runs of a sweep need a workdir each; drop --workdir", 2))
    commands = []
    for overrides in sweep():
        unknown = sorted(overrides.keys() - workdirs.flat(json.loads(config.to_json())).keys())
        if unknown:
            sys.exit(_complain(f"sweep() sets an unknown key {unknown[0]}", 2))
        settings = [f"--config.{key}={value}" for key, value in overrides.items()]
        commands.append(shlex.join([*program, *rest, *settings]))
    print("\n".join(commands))


@contextlib.contextmanager
def _writers(workdir, about, asked):
    if not processes.is_first():
        yield []
        return
    with writers.opened(workdir, about["experiment"], about["config"], **asked) as written:
        yield written


_FIT_FLAGS = ("checkpoint_every", "keep", "log_every", "skip_non_finite", "profile")
_JAX_FLAGS = ("debug_nans", "debug_leaks", "deterministic")
_BOOL, _INT, _TEXT = flags.DEFINE_bool, flags.DEFINE_integer, flags.DEFINE_string
_OPTIONS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "workdir": (_TEXT, None, "Folder of the run; runs/NAME-DIGEST if not given."),
    "checkpoint_every": (_INT, None, "Steps between checkpoints beside those at epochs' ends."),
    "keep": (_INT, 3, "Latest checkpoints to keep beside the best."),
    "validate_every": (
        _INT, 0, "Epochs between measurements by validation queries; 0 for none."
    ),
    "log_every": (_INT, 10, "Steps between two records of metrics.jsonl."),
    "skip_non_finite": (_BOOL, False, "Skip steps whose loss or gradient is not finite."),
    "profile": (_TEXT, None, "START:STOP, steps to trace into WORKDIR/profile."),
    "allow_query_overlap": (_BOOL, False, "Measure although queries leak."),
    "draw_report": (_BOOL, True, "Write report.html into the workdir at the end."),
    "tensorboard": (_BOOL, False, "Write curves to WORKDIR/tensorboard."),
    "wandb": (
        _BOOL, False, "Record curves with Weights & Biases; WANDB_PROJECT or WANDB_MODE ask too."
    ),
    "max_equal_images": (
        flags.DEFINE_float, 0.01, "Share of queries that may have an equal image in another list."
    ),
    "debug": (_BOOL, False, "Show the traceback of every error."),
}  # fmt: skip
"""Options of `run` and, as `_FIT_FLAGS`, of `train.fit`.

Each has the function of absl that defines its flag, its default, and its line of help.
"""

_START: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "coordinator": (_TEXT, None, "HOST:PORT of process 0, to start by hand."),
    "num_processes": (_INT, None, "How many processes there are, by hand."),
    "process_id": (_INT, None, "Which one this is, by hand."),
    "detect": (
        _BOOL, None,
        "Let JAX look for a cluster although none was seen; --nodetect runs alone in one.",
    ),
    "deterministic": (
        _BOOL, False, "The same bits in every run on GPUs too, which may take longer."
    ),
    "debug_nans": (
        _BOOL, False,
        "Stop where a NaN is computed first (jax_debug_nans, slow), with its traceback.",
    ),
    "debug_leaks": (
        _BOOL, False,
        "Find traced values that outlive their function (jax_check_tracer_leaks, slow).",
    ),
}  # fmt: skip
"""Options of the start: those of `processes.start`, and `_JAX_FLAGS`."""

_LEAST = {"checkpoint_every": 1, "keep": 1, "validate_every": 0, "log_every": 1}


def _parse(argv, defaults):
    """Parses the command line into the config, the options of `run` and the start options."""
    keys = workdirs.flat(json.loads(defaults.to_json()))
    known = {**_OPTIONS, **_START}
    if {"--help", "-h"} & set(argv):
        lines = {name: line for name, (_, _, line) in known.items()}
        lines["sweep"] = "Print the commands of the experiment's sweep, and run none."
        lines["variant"] = "Start from a variant of the config, such as an ablation."
        console.usage(argv[0], lines, keys)
        sys.exit(0)
    _check_keys(argv, keys)
    # Own values, not the global ones of absl: a test or a notebook may launch twice.
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", defaults, flag_values=values, sys_argv=argv)
    for name, (define, default, line) in known.items():
        define(name, default, line, flag_values=values)
    rest = _parsed(values, argv)[1:]
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; --help lists all")
    options = {name: values[name].value for name in _OPTIONS}
    for name, least in _LEAST.items():
        value = values[name].value
        if value is not None and value < least:
            raise InputError(f"--{name} must be {least} or more, got {value}")
    options["profile"] = _steps(options["profile"])
    return values.config, options, {name: values[name].value for name in _START}


def _check_keys(argv, keys):
    """Raises an error of one line, with the most similar key, for a key that the config has not."""
    for argument in argv[1:]:
        name = argument.split("=")[0].removeprefix("--")
        key = name.removeprefix("config.")
        if name != key and key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean --config.{near[0]}?" if near else "--help lists all"
            raise InputError(f"unknown key --config.{key}; {hint}")


def _parsed(values, argv, **options):
    """Parses flags, and returns the arguments that are no flags."""
    try:
        return values(argv, **options)
    except flags.Error as error:
        raise InputError(f"{error}; --help lists all") from None


def _on_data_set(argv, get_config, build, data_sets):
    """Binds both functions to the data set that the first argument names, and removes it."""
    if not data_sets:
        return argv, get_config, build
    word = argv[1] if len(argv) > 1 else ""
    if word not in data_sets:
        raise InputError(
            f"the first argument must be one of the data sets {', '.join(data_sets)}, got {word!r}"
        )
    argv = [f"{argv[0]} {word}", *argv[2:]]  # --help prints the two as the program
    return argv, lambda: get_config(word), lambda config: build(config, word)


def _vary(argv, config, variants):
    """Removes --variant=NAME from the command line; returns the rest and the variant's config."""
    values = flags.FlagValues()
    flags.DEFINE_string("variant", None, "", flag_values=values)
    values.set_gnu_getopt()  # --workdir FOLDER ahead of it would end the search
    rest = _parsed(values, argv, known_only=True)
    if values.variant is None:
        return rest, config
    if values.variant not in variants:
        raise InputError(
            f"no variant {values.variant!r}; there are {', '.join(variants) or 'none'}"
        )
    # Ahead of --config.KEY=VALUE, which then overrides the variant.
    config.update(variants[values.variant])
    return rest, config


def _steps(text):
    """Parses START:STOP into two step numbers; None stays None."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise InputError(f"--profile takes START:STOP, steps with START < STOP, got {text!r}")
    return int(first), int(last)


def _complain(error, status):
    print(f"error: {error}", file=sys.stderr)
    return status
