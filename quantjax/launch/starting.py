"""Starts an experiment file: its command line, its processes, its exit code."""

import contextlib
import faulthandler
import functools
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from ml_collections import ConfigDict

from quantjax import train
from quantjax.errors import QuantjaxError, is_one_line
from quantjax.launch import running
from quantjax.launch.command_line import (
    FIT_FLAGS,
    JAX_FLAGS,
    complain,
    on_data_set,
    parse,
    print_sweep,
    vary,
)
from quantjax.launch.measuring import Baselines
from quantjax.run import (
    connection,
    console,
    devices,
    encodings,
    output,
    prefetch,
    processes,
    signals,
)


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
    encodings.prepare(restart=argv is None)
    words = list(sys.argv if argv is None else argv)
    try:
        argv, get_config, build = on_data_set(words, get_config, build, data_sets)
        if "--sweep" in argv:
            print_sweep(words, get_config(), sweep)
            return
        config, options, start = parse(*vary(argv, get_config(), variants))
    except QuantjaxError as error:
        sys.exit(complain(error, 2))
    with output.kept():
        status = _run_guarded(config, build, baselines, title, options, start)
    if status:
        sys.exit(status)


def _run_guarded(config, build, baselines, title, options, start):
    """Starts the processes and the run; returns the exit status, or raises a program's fault."""
    fit = functools.partial(train.fit, **{name: options.pop(name) for name in FIT_FLAGS})
    debug = options["debug"] = options["debug"] or start["debug_nans"] or start["debug_leaks"]
    # In this thread as well: JAX's own `with jax.debug_nans(False)` would else end the flag here.
    nans = jax.debug_nans(True) if start["debug_nans"] else contextlib.nullcontext()
    # Handlers first: a signal during the start must end all processes as one in training does.
    try:
        with signals.ending() as ignore_later_ones, nans:
            _start(start)
            status = running.run(config, build, baselines, title=title, fit=fit, **options)
            if status and processes.several():
                ignore_later_ones()
    except signals.Stopped as error:
        console.say(f"stopped by {signal.Signals(error.number).name}; what was trained is saved")
        processes.leave(running.exit_code(error.number), at_once=prefetch.abandoned())
    except BaseException as error:
        if (lost := processes.lost_peer(error)) and not debug:
            processes.leave(complain(f"{lost}; start all processes again", running.TRY_AGAIN))
        if is_one_line(error) and not debug:
            processes.leave(complain(error, 1), at_once=prefetch.abandoned())
        # A plain raise would wait at exit for other processes, or for a blocked prefetch thread.
        if not (processes.several() or prefetch.abandoned()):
            output.log(traceback.format_exc())
            raise
        traceback.print_exc()
        processes.leave(1, at_once=True)
    if status and prefetch.abandoned():
        processes.leave(status, at_once=True)
    return status


def _start(options):
    """Sets JAX's debugging flags and connects the processes, before any use of JAX."""
    nans, leaks, deterministic = (options.pop(key) for key in JAX_FLAGS)
    for name, wanted in (("jax_debug_nans", nans), ("jax_check_tracer_leaks", leaks)):
        if wanted:
            jax.config.update(name, True)
    if deterministic:
        processes.repeat_bits()
    # kill -QUIT prints the stacks of all threads, of a run that seems to hang.
    with contextlib.suppress(OSError):  # standard error may be closed
        faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    connection.start(**options)
    devices.check()
    processes.check_same({"deterministic": deterministic})
    if not processes.is_first():
        console.silence()
    train.keep_programs()
