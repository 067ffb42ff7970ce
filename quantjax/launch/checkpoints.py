"""Uses training that was done before: measures a checkpoint, extends a run, starts from another."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from quantjax import evaluate, train
from quantjax.errors import InputError
from quantjax.run import checkpoint_files, console, files, processes, workdirs


class Earlier(NamedTuple):
    """Says which training of before a run uses.

    Attributes:
      evaluate_only: Whether nothing is trained, and only a checkpoint of the workdir is measured.
      checkpoint: The checkpoint that codes, results, encoder and report are of: "last", "best" by
        the validation queries, or with `evaluate_only` the number of a step.
      out: Folder for what `evaluate_only` writes; None for the workdir, which is otherwise not
        written to.
      extend: Number of epochs, all in all, up to which a finished run goes on; None for no more.
      init_from: Workdir of another run, whose latest parameters a new run starts from, or None.
    """

    evaluate_only: bool = False
    checkpoint: str | int = "last"
    out: str | None = None
    extend: int | None = None
    init_from: str | None = None


NOTHING_EARLIER = Earlier()
"""A run that trains from its own first state, or resumes, and measures its last state."""


def check_options(earlier: Earlier, validate_every: int) -> None:
    """Raises ValueError if options of `Earlier` exclude or miss each other."""
    for name in ("extend", "init_from"):
        if earlier.evaluate_only and getattr(earlier, name) is not None:
            raise InputError(f"--evaluate_only trains nothing; drop --{name}")
    if earlier.evaluate_only:
        return
    if earlier.out is not None:
        raise InputError("--out needs --evaluate_only; a run that trains writes into its --workdir")
    if isinstance(earlier.checkpoint, int):
        raise InputError(f"--checkpoint={earlier.checkpoint} needs --evaluate_only")
    if earlier.checkpoint == "best" and not validate_every:
        raise InputError("--checkpoint=best needs --validate_every=EPOCHS, or --evaluate_only")


def lengthened(config: ConfigDict, epochs: int | None) -> ConfigDict:
    """Returns a config with another number of epochs, or the same config for None."""
    if epochs is None:
        return config
    if "num_epochs" not in config:
        raise InputError("--extend needs an experiment whose config has num_epochs")
    config = config.copy_and_resolve_references()
    config.num_epochs = epochs
    return config


def describe(
    experiment: train.Experiment, earlier: Earlier, *, anonymous: bool = False
) -> dict[str, Any]:
    """Returns what a workdir must share with a run: `train.about_workdir`, and the first state.

    Args:
      experiment: The experiment of the run.
      earlier: See `Earlier`.
      anonymous: Whether to leave out the places of data, which are no part of its identity.
    """
    about = train.about_workdir(experiment)
    if anonymous:
        about["config"] = workdirs.without_places(about["config"])
    if earlier.init_from is not None:
        about["init_from"] = train.describe_checkpoint(earlier.init_from)
    return about


@contextlib.contextmanager
def claimed(
    earlier: Earlier,
    experiment: train.Experiment,
    workdir: pathlib.Path,
    out: pathlib.Path,
    about: dict[str, Any],
) -> Generator[train.TrainState | None]:
    """Checks what a run asks of earlier training, then locks and claims the folder it writes to.

    Args:
      earlier: See `Earlier`.
      experiment: The experiment of the run.
      workdir: Folder of the checkpoints.
      out: Folder that is written to: the workdir, or with `evaluate_only` another.
      about: From `describe`.

    Yields:
      The state of step 0 with another run's parameters, or None if `fit` is to find a state.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of the step that is asked for.
      ValueError: in every process, if a folder holds other things or another run, one that cannot
        be extended, or one that started from other parameters; if these do not fit; or if another
        run is at work there.
    """
    # Before the lock, which would write into a folder of other things, or of another run.
    processes.from_first(lambda: _check(earlier, experiment, workdir, out, about))
    if earlier.evaluate_only:
        train.find_step(workdir, earlier.checkpoint)
    state = None
    # A run that has checkpoints goes on from them.
    if earlier.init_from is not None and not train.list_checkpoints(workdir).steps:
        state = train.warm_start(experiment, earlier.init_from)
    with workdirs.held_by_all(out):
        processes.from_first(lambda: _claim(earlier, experiment, workdir, out, about))
        yield state


def _check(earlier, experiment, workdir, out, about):
    """Raises an error if a run may not claim the folder that it writes to."""
    if earlier.extend is not None:
        extended(experiment, workdir, about)
        return
    _check_length(workdir, about, trains=not earlier.evaluate_only)
    if earlier.evaluate_only:
        workdirs.check_config(workdir, about)
        workdirs.check_claim(out, _config_of(workdir, about))
        return
    if earlier.checkpoint == "best":
        # Found out at the end of training, this would come too late.
        reason = evaluate.unmeasured(experiment.splits, "validation")
        if reason is not None or not len(experiment.splits.validation):
            raise InputError(f"no checkpoint will be the best: {reason or 'no validation queries'}")
    if workdirs.check_claim(workdir, about):
        _check_start(workdir, about)


def _check_length(workdir, about, *, trains):
    """Raises ValueError that names an option if a workdir's run differs in its length alone.

    So it is after an extension, for the command that began the run.
    """
    if not (workdir / workdirs.CONFIG).exists():
        return
    there = workdirs.read_config(workdir)
    epochs, due = (each["config"].get("num_epochs") for each in (there, about))
    is_longer = isinstance(due, int) and isinstance(epochs, int) and due > epochs
    if epochs == due or (trains and not is_longer and "extended" not in there):
        return
    try:
        same = {**about, "config": {**about["config"], "num_epochs": epochs}}
        workdirs.check_config(workdir, same)
    except InputError:
        return  # the check that follows names all that differs
    option = f"extend={due if is_longer else epochs}" if trains else f"config.num_epochs={epochs}"
    raise InputError(
        f"{workdir} holds a run of {epochs} epochs, {due} are asked for; give --{option}, or "
        "choose another workdir"
    )


def _config_of(workdir, about):
    """Returns the content of a workdir's config.json, or `about` without one."""
    if not (workdir / workdirs.CONFIG).exists():
        return about
    there = workdirs.read_config(workdir)
    # Places of data that `about` leaves out, as that of an anonymous run, are not copied either.
    if about["config"] == workdirs.without_places(about["config"]):
        there["config"] = workdirs.without_places(there["config"])
    return there


def extended(
    experiment: train.Experiment, workdir: pathlib.Path, about: dict[str, Any]
) -> dict[str, Any]:
    """Returns the config.json of a finished run that is extended to an experiment's epochs.

    Its "extended" lists the lengths that the run had before, with the step at the end of each. A
    run whose extension was stopped needs no other config.

    Args:
      experiment: The longer experiment.
      workdir: The run's folder.
      about: From `describe`, of the longer experiment.

    Raises:
      FileNotFoundError: if the workdir holds no run.
      ValueError: if the run is another, unfinished, or not shorter.
    """
    there, epochs = workdirs.read_config(workdir), experiment.num_epochs
    before, lengths = there["config"].get("num_epochs"), there.get("extended", [])
    shorter = {**about, "config": {**about["config"], "num_epochs": before}}
    workdirs.check_config(workdir, shorter)
    if before == epochs and lengths:
        return there
    if not isinstance(before, int) or epochs <= before:
        raise InputError(f"{workdir} has {before} epochs; --extend must be more, got {epochs}")
    due = before * len(experiment.sampler(experiment.seed, 0))
    last = max(checkpoint_files.saved_steps(workdir / "checkpoints"), default=0)
    if last < due:
        raise InputError(
            f"{workdir} is unfinished, at step {last} of {due}; let it end without --extend first"
        )
    lengths = [*lengths, {"num_epochs": before, "step": due}]
    return {**there, "config": about["config"], "extended": lengths}


def _check_start(workdir, about):
    """Raises ValueError if a run that began with the parameters of another would begin anew."""
    first = None if "init_from" in about else workdirs.read_config(workdir).get("init_from")
    if isinstance(first, dict) and not checkpoint_files.saved_steps(workdir / "checkpoints"):
        raise InputError(
            f"{workdir} starts from the parameters of another run ({first.get('experiment')} at "
            f"step {first.get('step')}); give --init_from"
        )


def _claim(earlier, experiment, workdir, out, about):
    """Writes the run's config into the folder that is written to, or checks it."""
    if earlier.extend is not None:
        workdirs.write_config(workdir, extended(experiment, workdir, about))
    elif out.resolve() != workdir.resolve():
        workdirs.claim(out, _config_of(workdir, about))
        # The report draws the course of training from it.
        if (records := workdir / "metrics.jsonl").exists():
            files.write_text(out / records.name, records.read_text(encoding="utf-8"))
    else:
        workdirs.claim(workdir, about)


class Chosen(NamedTuple):
    """A checkpoint that is measured: "last", "best" or "step", its step, and how to read it."""

    name: str
    step: int
    read: Callable[[], train.TrainState]


def choose(
    earlier: Earlier,
    experiment: train.Experiment,
    workdir: pathlib.Path,
    mesh: Mesh,
    trained: train.TrainState | None,
) -> list[Chosen]:
    """Returns the checkpoint to measure, then the best beside the last, or the last beside it.

    Args:
      earlier: See `Earlier`.
      experiment: The run's experiment.
      workdir: Folder of the checkpoints.
      mesh: From `run.parallel.data_mesh`.
      trained: State at the end of training, which needs no reading; None without training.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    asked, found = earlier.checkpoint, train.list_checkpoints(workdir)
    step, last = train.find_step(workdir, asked), found.steps[-1]
    if trained is None or asked != "last":
        console.say(f"measuring step {step}; the last checkpoint is of step {last}")
    steps = {asked if isinstance(asked, str) else "step": step}
    # A step that was asked for by number is measured alone.
    others = {"last": last, "best": found.best} if isinstance(asked, str) else {}
    steps |= {name: other for name, other in others.items() if other not in (None, step)}
    held = {} if trained is None else {int(trained.step): trained}

    def read(step):
        if step in held:
            return held[step]
        return train.restore(experiment, workdir, step=step, mesh=mesh)

    return [Chosen(name, step, functools.partial(read, step)) for name, step in steps.items()]


def default_workdir(about: dict[str, Any], config: ConfigDict) -> str:
    """Returns runs/NAME-DIGEST, with the digest of the config before an extension."""
    digest = workdirs.digest({**about, "config": json.loads(config.to_json())})
    return f"runs/{about['experiment']}-{digest[:8]}"
