"""Measures a trained method and its baselines, and writes codes, results, encoder and report."""

import contextlib
import pathlib
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from quantjax import evaluate, index, report, train
from quantjax.errors import QuantjaxError
from quantjax.launch.command_line import complain
from quantjax.run import console, processes


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


class Measured(NamedTuple):
    """A trained experiment that is measured: its workdir, name of results, and provenance.

    `began` is the run's start by `time.perf_counter`, and `draw` whether it gets a report. `beside`
    has the facts of other checkpoints, and functions that read them; they are measured too, as
    "TITLE CHECKPOINT".
    """

    experiment: train.Experiment
    mesh: Any
    workdir: pathlib.Path
    title: str
    debug: bool
    began: float
    draw: bool
    trained: train.TrainState
    facts: dict[str, Any]
    beside: Sequence[tuple[dict[str, Any], Callable[[], train.TrainState]]]


def measure(run, baselines, audited):
    """Writes codes, results and report to the workdir; returns the number of failed baselines."""
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
    rows = [(result, run.facts) for result in retrieval.results]
    # Written before the baselines, which may run out of memory or fail, and again with them.
    if processes.is_first():
        index.save(run.workdir, retrieval.codec, retrieval.codes, ids=splits.database)
        _write(run.workdir, rows, about)
        with _trying("encoder", debug=run.debug):  # not every network can be exported
            train.save_encoder(experiment, run.trained, run.workdir / "encoder")
    for facts_beside, read in run.beside:
        name = f"{run.title} {facts_beside['checkpoint']}"
        console.say(f"evaluating step {facts_beside['step']} as {name!r}")
        found = evaluate.evaluate_method(
            experiment, read(), mesh=run.mesh, name=name, audited=audited
        )
        rows += [(result, facts_beside) for result in found.results]
    with ThreadPoolExecutor(1) as pool:
        # Figures are drawn by Python, baselines measured by compiled code: each leaves a core idle.
        drawing = pool.submit(_draw, run, retrieval) if run.draw else None
        measured, failed = _measure_baselines(
            baselines(experiment, run.mesh, run.trained), debug=run.debug
        )
    rows += [(result, run.facts) for result in measured]
    if processes.is_first():
        _write(run.workdir, rows, about)
    # All wait here for process 0: at exit, JAX would wait for it a few minutes at most.
    failed = processes.all_agree(failed)
    console.table([result for result, _ in rows])
    if drawing is not None:
        with _trying("report", debug=run.debug):
            console.say(f"report: {report.write(run.workdir, drawing.result())}")
    return failed


def _write(folder, rows, about):
    """Writes results.json; the rows of each result have its facts as "run"."""
    abouts = [{**about, "run": facts} for _, facts in rows]
    evaluate.write_results(folder, [result for result, _ in rows], abouts)


@contextlib.contextmanager
def _trying(what, *, debug):
    """Prints a failure in the context as one line: no run fails for a plot or an export."""
    try:
        yield
    except Exception as error:
        console.say(f"no {what}: {_reason(error, debug=debug)}")


def _draw(run, retrieval):
    """Returns the figures of the report, after keeping their arrays in the workdir."""
    facts = {name: run.facts[name] for name in ("commit", "command")}
    facts["seconds"] = round(time.perf_counter() - run.began, 1)
    report.keep(run.workdir, run.experiment, run.trained, retrieval, about=facts)
    return report.draw(run.workdir)


def _reason(error, *, debug):
    """Returns an error as one line; with debug also prints its traceback."""
    # The run goes on after this error, so that only a developer wants its traceback.
    if debug:
        traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _measure_baselines(baselines, *, debug):
    """Measures the baselines; returns their results and the number of failures."""
    found = []
    for name, measure in baselines.items():
        try:
            found.append(measure())
        except Exception as error:
            # An error that not all processes share would leave the others waiting for this one.
            if processes.several() and not isinstance(error, QuantjaxError):
                raise
            complain(f"baseline {name} failed, {_reason(error, debug=debug)}", 0)
    return found, len(baselines) - len(found)
