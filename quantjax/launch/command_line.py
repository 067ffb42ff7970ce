"""Parses the command line of an experiment, and prints the commands of its sweep."""

import difflib
import functools
import json
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from quantjax.errors import InputError, listed
from quantjax.launch.checkpoints import Earlier, check_options
from quantjax.run import connection, console, workdirs

FIT_FLAGS = ("checkpoint_every", "keep", "log_every", "skip_non_finite", "profile")
JAX_FLAGS = ("debug_nans", "debug_leaks", "deterministic")
RECORDED = (
    "validate_every", "skip_non_finite", "allow_query_overlap", "max_equal_images", "deterministic",
)  # fmt: skip
"""Options that change numbers, recorded always; others are recorded where the user gives them."""

UNRECORDED = ("workdir", "out", "init_from", "coordinator", "num_processes", "process_id")
"""Options that tell of a place, and are never recorded."""

_BOOL, _INT, _TEXT = flags.DEFINE_bool, flags.DEFINE_integer, flags.DEFINE_string
_FROM_0, _FROM_1 = (functools.partial(_INT, lower_bound=least) for least in (0, 1))
_OPTIONS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "workdir": (_TEXT, None, "Folder of the run; runs/NAME-DIGEST if not given."),
    "checkpoint_every": (_FROM_1, None, "Steps between checkpoints beside those at epochs' ends."),
    "keep": (_FROM_1, 3, "Latest checkpoints to keep beside the best."),
    "validate_every": (
        _FROM_0, 0, "Epochs between measurements by validation queries; 0 for none."
    ),
    "log_every": (_FROM_1, 10, "Steps between two records of metrics.jsonl."),
    "evaluate_only": (_BOOL, False, "Train nothing, and measure a checkpoint of the workdir."),
    "checkpoint": (_TEXT, "last", "Checkpoint to measure: best, last, or the number of a step."),
    "out": (_TEXT, None, "Folder for what --evaluate_only writes, in place of the workdir."),
    "extend": (_FROM_1, None, "Go on with a finished run, up to this number of epochs."),
    "init_from": (_TEXT, None, "Workdir of another run, from whose parameters a new run starts."),
    "skip_non_finite": (_BOOL, False, "Skip steps whose loss or gradient is not finite."),
    "profile": (_TEXT, None, "START:STOP, steps to trace into WORKDIR/profile."),
    "allow_query_overlap": (_BOOL, False, "Measure although queries leak."),
    "allow_changed_code": (
        _BOOL, False, "Measure a run that was trained to its end by code that has changed since."
    ),
    "draw_report": (_BOOL, True, "Write report.html into the workdir at the end."),
    "tensorboard": (_BOOL, False, "Write curves to WORKDIR/tensorboard."),
    "wandb": (
        _BOOL, False, "Record curves with Weights & Biases; WANDB_PROJECT or WANDB_MODE ask too."
    ),
    "max_equal_images": (
        flags.DEFINE_float, 0.01, "Share of queries that may have an equal image in another list."
    ),
    "anonymous": (_BOOL, False, "Leave the folders of this machine out of the workdir's files."),
    "debug": (_BOOL, False, "Show the traceback of every error."),
}  # fmt: skip
"""Options of `run` and, as `FIT_FLAGS`, of `train.fit`.

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
    "start_timeout": (
        _FROM_1, connection.TIMEOUT, "Seconds in which all processes must have started."
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
"""Options of the start: those of `connection.start`, and `JAX_FLAGS`."""


def parse(argv, defaults):
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
    options: dict[str, Any] = {name: values[name].value for name in _OPTIONS}
    options["profile"] = _steps(options["profile"])
    options["flags"] = {
        name: values[name].value
        for name in known
        if name in RECORDED or (values[name].present and name not in UNRECORDED)
    }
    options["checkpoint"] = _checkpoint(options["checkpoint"])
    options["earlier"] = Earlier(**{name: options.pop(name) for name in Earlier._fields})
    check_options(options["earlier"], options["validate_every"])
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


def on_data_set(argv, get_config, build, data_sets):
    """Binds both functions to the data set that the first argument names, and removes it."""
    if not data_sets:
        return argv, get_config, build
    word = argv[1] if len(argv) > 1 else ""
    if word not in data_sets:
        raise InputError(
            f"the first argument must be one of the data sets {listed(data_sets, word)}, got "
            f"{word!r}"
        )
    argv = [f"{argv[0]} {word}", *argv[2:]]  # --help prints the two as the program
    return argv, lambda: get_config(word), lambda config: build(config, word)


def vary(argv, config, variants):
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


def _checkpoint(text):
    """Parses "best", "last" or the number of a step."""
    if text in ("best", "last"):
        return text
    if not text.isdecimal():
        raise InputError(f"--checkpoint takes best, last or the number of a step, got {text!r}")
    return int(text)


def print_sweep(argv, config, sweep):
    """Prints a command for each run of the sweep: what was typed, and the overrides."""
    if sweep is None:
        raise InputError("this experiment has no sweep()")
    # The commands repeat what was typed, so that the sweep runs with the same options.
    started = program(argv)
    rest = [argument for argument in argv[1:] if argument != "--sweep"]
    if any(argument.startswith("--workdir") for argument in rest):
        raise InputError("runs of a sweep need a workdir each; drop --workdir")
    commands, keys = [], workdirs.flat(json.loads(config.to_json())).keys()
    for overrides in sweep():
        unknown = sorted(overrides.keys() - keys)
        if unknown:
            raise InputError(f"sweep() sets an unknown key {unknown[0]}")
        settings = [f"--config.{key}={value}" for key, value in overrides.items()]
        commands.append(shlex.join([*started, *rest, *settings]))
    print("\n".join(commands))


def program(argv):
    """Returns the words that start this program from a shell, without its arguments."""
    # `python -m NAME` leaves only a path in argv; the spec still has the module's name.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", *argv[:1]]


def recorded(words, argv):
    """Returns words for the workdir: with --anonymous, ".../" stands for folders in them."""
    if "--anonymous" not in argv:
        return words
    return [re.sub(r"(^|=)[/~].*/", r"\1.../", word) for word in words]


def complain(error, status):
    """Prints an error as one line; returns the exit status that it was given."""
    print(f"error: {error}", file=sys.stderr)
    return status
