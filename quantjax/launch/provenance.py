"""Records which code, command and devices trained a run, and stops a run of edited code."""

import importlib.metadata
import os
import pathlib
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from quantjax import train
from quantjax.errors import InputError, few
from quantjax.launch.command_line import program, recorded
from quantjax.report import revision
from quantjax.run import console, processes, sources, stretches

_VARIABLES = "XLA_FLAGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION"
"""Environment variables that change numbers."""

_PACKAGES = "quantjax", "jax", "jaxlib", "numpy", "flax", "optax"


def describe(build: Callable[..., Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns facts of this start (JSON): command, commits, flags, versions, devices, sources.

    They name neither the host nor its folders, apart from what the user typed.

    Args:
      build: The experiment's `build`, whose file the commit is of.
      flags: Options of the command line that change numbers, or that the user set.

    Raises:
      ValueError: if the processes of the run have different sources.
    """
    module = sys.modules.get(build.__module__)
    file = getattr(module, "__file__", None)
    # By name, as a wheel's experiments are installed, and `build` may be of "__main__".
    found = sources.digests("quantjax", "quantjax_experiments", build.__module__)
    sources.check_same(found)
    devices = jax.devices()
    return {
        "command": shlex.join(recorded([*program(sys.argv), *sys.argv[1:]], sys.argv)),
        "commit": "unknown" if file is None else revision.commit(pathlib.Path(file).absolute()),
        "quantjax_commit": revision.commit(),
        "code": sources.combined(found),
        "flags": dict(flags),
        "environment": {
            name: " ".join(recorded(os.environ[name].split(), sys.argv))
            for name in _VARIABLES
            if os.environ.get(name)
        },
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "sources": found,
    }


def begin(
    workdir: pathlib.Path, about: Mapping[str, Any], allowed: bool, step: int, num_steps: int
) -> None:
    """Begins a stretch; prints where a run goes on, and which files differ from before.

    Args:
      workdir: Folder of the run.
      about: From `describe`.
      allowed: Whether a run that is trained to its end may be measured although the code that
        trained it has changed.
      step: The step that the run starts at.
      num_steps: Steps of the whole run.
    """
    # One answer for all processes: a process that raised alone would leave the others waiting.
    for line in processes.from_first(lambda: _begin(workdir, about, allowed, step, num_steps)):
        console.say(line)


def check_code(
    workdir: pathlib.Path, about: Mapping[str, Any], step: int, *, allowed: bool
) -> list[str]:
    """Returns the files that have changed since a run was trained up to a step.

    Args:
      workdir: Folder of the run.
      about: From `describe`.
      step: The step.
      allowed: Whether they may have changed; a run that is only measured needs the user's leave,
        since a number of the old code would else pass for one of the new code.

    Raises:
      ValueError: if files have changed and that is not allowed; the message names them.
    """
    trained = stretches.trained_by(stretches.read(workdir), step)
    changed = sources.changed(trained, about["sources"])
    if changed and not allowed:
        raise InputError(
            f"{workdir} was trained to its end, step {step}, by code that has changed since "
            f"({few(changed)}); choose another --workdir to train anew, or give "
            "--allow_changed_code to measure what was trained before"
        )
    return changed


def _begin(workdir, about, allowed, step, num_steps):
    """Begins a stretch unless all is trained; returns lines to print."""
    earlier, is_trained = stretches.read(workdir), step >= num_steps
    changed = check_code(workdir, about, step, allowed=allowed or not is_trained)
    if not is_trained or not earlier:
        stretches.begin(workdir, step, {"num_steps": num_steps, **about})
    if step == 0:
        return []
    lines = [f"going on from step {step} of {num_steps}"]
    if is_trained:
        lines = [f"already trained, at step {step}; no step was run, the rest is measured again"]
    if changed:
        told = few(changed)
        lines.append(f"warning: other code than trained the steps before: {told}")
    before = earlier[-1]["flags"] if earlier else about["flags"]
    if before != about["flags"]:
        lines.append(f"note: other flags than before: {_differences(before, about['flags'])}")
    return lines


def _differences(before, now):
    names = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    return ", ".join(f"{name} {now.get(name)} (was {before.get(name)})" for name in names)


def end(workdir: pathlib.Path, result: train.FitResult) -> None:
    """Ends the stretch that this start began, in the first process.

    Args:
      workdir: Folder of the run.
      result: From `train.fit`; the stretch keeps the name of a signal that stopped it.
    """
    number = result.signal
    stopped = {} if number is None else {"stopped": signal.Signals(number).name}
    if processes.is_first():
        stretches.end(workdir, int(result.state.step), **stopped)


def facts(
    workdir: pathlib.Path, about: Mapping[str, Any], step: int, *, checkpoint: str = "last"
) -> dict[str, Any]:
    """Returns what the rows of results.json have under "run".

    Args:
      workdir: Folder of the run.
      about: From `describe`, of the start that measures.
      step: Step of the state that is measured.
      checkpoint: Which state that is: "last", "best", or "step" if asked for by its number.

    Returns:
      Command, commits and flags of the start that measures; "begin" and "end" of training; step and
      checkpoint; "restarts"; "changed_code", files that have changed since training; and the
      stretches, each with its steps, devices, flags and the files that changed before it.
    """
    found = stretches.read(workdir)
    return {
        **{name: value for name, value in about.items() if name != "sources"},
        "begin": found[0].get("begin") if found else None,
        "end": found[-1].get("end") if found else None,
        "step": step,
        "checkpoint": checkpoint,
        "restarts": max(len(found) - 1, 0),
        "changed_code": check_code(workdir, about, step, allowed=True),
        "stretches": stretches.summary(found),
    }
