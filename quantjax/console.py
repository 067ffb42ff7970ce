"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and the table."""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_LINES_APART = 5.0  # seconds between two plain lines
_WIDE = 144  # characters of a line of the table that goes to a file or a pipe
_COLUMNS = ("what", "metric", "bits", "bytes", "value", "worst to best", "95 % interval", "chance")


_silent = False


def silence() -> None:
    """Prints nothing from now on: of several processes one speaks."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """Prints one line, unwrapped and unstyled."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def announce(experiment: Any, workdir: Any) -> None:
    """Prints what is about to run.

    Args:
      experiment: A `train.Experiment`.
      workdir: Where it will be.
    """
    splits = experiment.splits
    say(
        f"{experiment.name}: {len(splits.train)} train, {len(splits.validation)} validation, "
        f"{len(splits.query)} query, {len(splits.database)} database images "
        f"({splits.name or 'split'} {splits.digest[:8]}); workdir {workdir}"
    )


def report_audit(audit: Any) -> None:
    """Prints what an audit found, in a line, or that it found nothing.

    Args:
      audit: A `data.Audit`.
    """
    found = [
        f"{count} {what} {where}"
        for what, counts in (
            ("rows of", audit.shared_rows),
            ("equal images of", audit.shared_images),
            ("repeated images in", audit.repeated_images),
            ("rows without a label in", audit.unlabelled),
            ("without a relevant item of", audit.zero_queries),
        )
        for where, count in counts.items()
        if count
    ]
    say("audit: " + (", ".join(found) or "no overlaps, no equal images, every query has a match"))


@contextlib.contextmanager
def progress(experiment: Any) -> Generator[Callable[[dict[str, Any]], None]]:
    """Shows how far training is: a bar and the latest numbers on a terminal, lines elsewhere.

    Args:
      experiment: A `train.Experiment`.

    Yields:
      A callback for `train.fit`.
    """
    per_epoch = len(experiment.sampler(experiment.seed, 0))
    total = experiment.num_epochs * per_epoch
    console = _console()
    if not console.is_terminal:
        yield _plain_lines(experiment.num_epochs, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)
    task = bar.add_task("training", total=total)
    latest: dict[str, dict[str, Any]] = {}
    with Live(bar, console=console, refresh_per_second=4) as live:

        def report(record):
            bar.update(task, completed=record["step"])
            latest["epoch" if "after_epoch" in record else "step"] = record
            live.update(Group(bar, _numbers(latest)))

        yield report


def _numbers(latest):
    """Returns the latest numbers of a step and of an epoch, as a table of two rows."""
    grid = Table(box=None)
    step = latest.get("step", {})
    found = {
        name: value
        for name, value in {**step, **latest.get("epoch", {}), **step}.items()
        if name not in ("step", "after_epoch") and not isinstance(value, str)
    }
    for name in found:
        grid.add_column(name.replace("_", " "), justify="right")
    grid.add_row(*map(_short, found.values()))
    return grid


def _short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not finite" if value is None else str(value)


@contextlib.contextmanager
def counter(what: str) -> Generator[Callable[[int, int], None]]:
    """Shows how much of something is done, a bar on a terminal and a line now and then elsewhere.

    Args:
      what: What is counted.

    Yields:
      `(done, total) -> None`.
    """
    console = _console()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = -_LINES_APART

    def report(done, total):
        nonlocal last
        if done == total or time.monotonic() - last >= _LINES_APART:
            last = time.monotonic()
            say(f"{what}: {done}/{total}")

    yield report


def table(results: list[Any]) -> None:
    """Prints results as a table.

    Args:
      results: `evaluate.Results`.
    """
    grid = Table(*_COLUMNS, box=None)
    for result in results:
        for number in result.numbers:
            grid.add_row(
                result.name,
                number.metric,
                str(result.bits),
                str(result.num_bytes),
                f"{number.value:.4f}",
                f"{number.worst:.4f} to {number.best:.4f}",
                f"{number.low:.4f} to {number.high:.4f}",
                f"{number.chance:.4f}",
            )
    for name in ("bits", "bytes", "value", "chance"):
        next(column for column in grid.columns if column.header == name).justify = "right"
    _console().print(grid)


def usage(program: str, options: dict[str, str], keys: dict[str, Any]) -> None:
    """Prints the flags of an experiment.

    Args:
      program: What was called.
      options: Flags beside the config's, and what they are for.
      keys: Config keys and their defaults.
    """
    say(f"{program} [--OPTION=VALUE ...] [--config.KEY=VALUE ...]\n\nOptions:")
    for name, line in options.items():
        say(f"  --{name}: {line}")
    say("\nKeys and their defaults:")
    for key, value in keys.items():
        say(f"  --config.{key}={value}")


def _plain_lines(num_epochs, total):
    last = -_LINES_APART

    def report(record):
        nonlocal last
        if "after_epoch" in record:
            if "validation" in record:
                say(f"epoch {record['epoch'] + 1}/{num_epochs}  {_named(record)}")
            return
        if "skipped" in record:
            say(f"step {record['step']} skipped: {record['skipped']} not finite")
        elif record["step"] == total or time.monotonic() - last >= _LINES_APART:
            last = time.monotonic()
            say(
                f"step {record['step']}/{total}  epoch {record['epoch'] + 1}/{num_epochs}  "
                f"loss {record['loss']:.4f}  {record['steps_per_second']:.1f} steps/s"
            )

    return report


def _named(record):
    told = ("validation", "codebook_perplexity", "dead_codewords", "bit_entropy")
    return "  ".join(
        f"{name.replace('_', ' ')} {_short(record[name])}" for name in told if name in record
    )


def _console():
    console = Console(quiet=_silent)
    return console if console.is_terminal else Console(width=_WIDE, quiet=_silent)
