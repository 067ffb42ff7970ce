"""Prints progress, notes and result tables on terminals, in notebooks and into files."""

import contextlib
import importlib
import math
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from quantjax.run import output

_LINES_APART = 5.0  # seconds between two plain lines
_REDRAW = 0.2  # seconds between two drawings of a notebook's bar
_HEADS = ("name", "", "bits", "metric", "value (95 % interval)", "ties", "chance")

_silent = False
_on_stderr = False


def silence() -> None:
    """Turns off all printing in this process, so that only process 0 of several prints."""
    global _silent
    _silent = True


@contextlib.contextmanager
def on_stderr() -> Generator[None]:
    """Prints to standard error inside, so that standard output has a JSON object alone."""
    global _on_stderr
    before, _on_stderr = _on_stderr, True
    try:
        yield
    finally:
        _on_stderr = before


def say(text: str) -> None:
    """Prints one line, unwrapped and unstyled; a line of a run has the time, and is logged."""
    output.log(text)
    _console().print(output.stamped(text), markup=False, highlight=False, soft_wrap=True)


def announce(experiment: Any, workdir: Any) -> None:
    """Prints the experiment's name, split sizes and workdir before the run starts.

    Args:
      experiment: A `train.Experiment`.
      workdir: Folder of the run.
    """
    splits = experiment.splits
    say(f"{experiment.name}; workdir {workdir}")
    say(
        f"{len(splits.train)} train, {len(splits.validation)} validation, {len(splits.query)} "
        f"query, {len(splits.database)} database ({splits.name or 'split'} {splits.digest[:8]})"
    )


def report_audit(audit: Any) -> None:
    """Prints the findings of an audit of the split in one line.

    Args:
      audit: A `data.Audit`.
    """
    # One line: what was not found is not printed.
    found = audit_findings(audit._asdict())
    say("audit: " + (", ".join(found) or "no overlaps, no equal images, every query has a match"))


def audit_findings(audit: dict[str, Any]) -> list[str]:
    """Returns the findings of an audit in words, such as "5 rows of query in database".

    Args:
      audit: Fields of a `data.Audit`, as results.json keeps them too.
    """
    return [
        f"{count:,} {what} {where}"
        for field, what in (
            ("shared_rows", "rows of"),
            ("shared_images", "equal images of"),
            ("repeated_images", "repeated images in"),
            ("unlabelled", "rows without a label in"),
            ("zero_queries", "without a relevant item of"),
        )
        for where, count in (audit.get(field) or {}).items()
        if count
    ]


@contextlib.contextmanager
def progress(experiment: Any, *, plain: bool = True) -> Generator[Callable[[dict[str, Any]], None]]:
    """Shows training progress and the latest metrics, as a bar in a notebook or on a terminal.

    Args:
      experiment: A `train.Experiment`.
      plain: Whether to print plain lines elsewhere, such as into a file. The log of a run has
        them in any case.

    Yields:
      A callback for `train.fit`.
    """
    # The sampler gives as many batches every epoch.
    total = experiment.num_epochs * len(experiment.sampler(experiment.seed, 0))
    console = _console()
    if _silent:
        yield lambda record: None
    elif _in_notebook():
        yield from _notebook_bar(experiment.num_epochs, total)
    elif console.is_terminal:
        write = _plain_lines(experiment.num_epochs, total, output.log)
        yield from _terminal_bar(console, total, write)
    else:
        yield _plain_lines(experiment.num_epochs, total, say) if plain else lambda record: None


def _in_notebook():
    """Returns whether this process is a Jupyter kernel; IPython on a terminal does not count."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _notebook_bar(num_epochs, total):
    """Yields a callback that redraws a bar in plain HTML, which every notebook front end shows."""
    display = importlib.import_module("IPython.display")
    latest: dict[str, dict[str, Any]] = {}
    began, drawn, rate = time.monotonic(), 0.0, _rate()

    def content(step, *shown):
        words = "  ".join([f"{step}/{total} steps", *shown])
        bar = f'<progress value="{step}" max="{total}" style="width: 16em"></progress> {words}'
        return {"text/html": f'<div style="white-space: pre-wrap">{bar}</div>', "text/plain": words}

    handle = display.display(content(0, "compiling"), raw=True, display_id=True)

    def report(record):
        nonlocal drawn
        latest["epoch" if "after_epoch" in record else "step"] = record
        now = time.monotonic()
        # The last record of an epoch may carry an older step than the last record of a step.
        step = max(each["step"] for each in latest.values())
        left = f"{now - began:.0f} s" if step >= total else rate(step, total)[1]
        if step < total and now - drawn < _REDRAW:
            return
        drawn = now
        told = {"loss": "loss", "validation": "validation mAP", "skipped": "skipped"}
        shown = [
            f"{words} {_short(each[name])}"
            for name, words in told.items()
            for each in latest.values()
            if name in each
        ]
        shown = [f"epoch {record['epoch'] + 1}/{num_epochs}", *shown, left]
        handle.update(content(step, *filter(None, shown)), raw=True)

    yield report


def _terminal_bar(console, total, log):
    bar = _bar(console, "steps")
    task = bar.add_task("training", total=total)
    latest: dict[str, dict[str, Any]] = {}
    with Live(bar, console=console, refresh_per_second=4) as live:

        def report(record):
            log(record)
            if "first_step_seconds" in record:
                console.print(output.stamped(_first_step(record)), highlight=False)
            bar.update(task, completed=record["step"])
            # The latest record of each kind is kept: a step's record has no validation value.
            latest["epoch" if "after_epoch" in record else "step"] = record
            live.update(Group(bar, _numbers(latest)))

        yield report


def _bar(console, unit, *columns):
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _numbers(latest):
    """Returns the latest metrics of a step and of an epoch, names above values, none cut."""
    step = latest.get("step", {})
    found = {
        name.replace("_", " "): _short(value)
        # The step's names come first, and its values win over those of the epoch.
        for name, value in {**step, **latest.get("epoch", {}), **step}.items()
        if name not in ("step", "after_epoch") and not isinstance(value, str)
    }
    texts = [Text(f"{name}\n{value}", justify="right") for name, value in found.items()]
    return Columns(texts, padding=(0, 2))


def _short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not finite" if value is None else str(value)


@contextlib.contextmanager
def counter(what: str) -> Generator[Callable[[int, int], None]]:
    """Shows how many items are done, as a bar on a terminal and as occasional lines elsewhere.

    Args:
      what: Name of the items, such as "photos".

    Yields:
      Callback `(done, total) -> None`.
    """
    console = _console()
    if console.is_terminal:
        with _bar(console, "", TextColumn("{task.fields[rate]}")) as bar:
            task, rate = bar.add_task(what, total=None, rate=""), _rate()
            yield lambda done, total: bar.update(
                task, completed=done, total=total, rate=rate(done, total)[0]
            )
        return
    last, rate = -_LINES_APART, _rate()

    def report(done, total):
        nonlocal last
        told = rate(done, total)
        if done == total or time.monotonic() - last >= _LINES_APART:
            last = time.monotonic()
            say(", ".join(filter(None, (f"{what}: {done}/{total}", *told))))

    yield report


def _rate():
    """Returns a function `(done, total)` -> the rate and the time left as words, maybe empty."""
    first = None

    def told(done, total):
        nonlocal first
        # Counted from the first call, since a program that goes on has much done already.
        first = first or (done, time.monotonic())
        seconds, count = time.monotonic() - first[1], done - first[0]
        if not count or seconds < 1:
            return "", ""
        left = (total - done) * seconds / count
        words = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        return f"{count / seconds:,.0f}/s", f"{words} left" if done < total else ""

    return told


def table(results: list[Any]) -> None:
    """Prints results as a table of 80 columns at most, and the full metric ids below it.

    Args:
      results: `evaluate.Results`.
    """
    rows = [
        (
            result.name,
            f"  {result.distance_in_words}",
            _short(result.bits) if result.bits is not None else "-",
            number.short,
            number.words,
            f"{number.worst:.3f} to {number.best:.3f}",
            "-" if math.isnan(number.chance) else f"{number.chance:.3f}",
        )
        for result in results
        for number in result.numbers
    ]
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]

    def line(cells):
        # Numbers of several digits are compared from the right.
        placed = [
            cell.rjust(width) if head in ("bits", "chance") else cell.ljust(width)
            for head, cell, width in zip(_HEADS, cells, widths, strict=True)
        ]
        return " ".join(placed[1:]).rstrip()

    lines = [line(_HEADS)]
    for number, row in enumerate(rows):
        # Names have lines of their own: they may be long, and the numbers need the width.
        if number == 0 or row[0] != rows[number - 1][0]:
            lines.append(row[0])
        lines.append(line(row))
    ids = dict.fromkeys(number.metric for result in results for number in result.numbers)
    text = "\n".join([*lines, "metrics:", *(f"  {each}" for each in ids)])
    output.log(text)
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def usage(program: str, options: dict[str, str], keys: dict[str, Any]) -> None:
    """Prints the command-line help of an experiment: its options and config keys.

    Args:
      program: Name of the program.
      options: Description of each option that is not a config key.
      keys: Default of each config key.
    """
    say(f"{program} [--OPTION=VALUE ...] [--config.KEY=VALUE ...]\n\nOptions:")
    for name, line in options.items():
        say(f"  --{name}: {line}")
    say("\nKeys and their defaults:")
    for key, value in keys.items():
        say(f"  --config.{key}={value}")


def _plain_lines(num_epochs, total, say):
    """Returns a callback that writes a line now and then, by `say`."""
    last, rate = -_LINES_APART, _rate()

    def report(record):
        nonlocal last
        if "first_step_seconds" in record:
            say(_first_step(record))
        if "after_epoch" in record:
            # An epoch without validation tells nothing new: its loss was printed.
            if "validation" in record:
                say(f"epoch {record['epoch'] + 1}/{num_epochs}  {_named(record)}")
            return
        if "skipped" in record:
            say(f"step {record['step']} skipped: {record['skipped']} not finite")
        elif record["step"] == total or time.monotonic() - last >= _LINES_APART:
            last = time.monotonic()
            parts = [
                f"step {record['step']}/{total}",
                f"epoch {record['epoch'] + 1}/{num_epochs}",
                f"loss {record['loss']:.4f}",
                f"{record['steps_per_second']:.1f} steps/s",
                rate(record["step"], total)[1],
            ]
            say("  ".join(filter(None, parts)))

    return report


def _first_step(record):
    return (
        f"first step after {record['first_step_seconds']:.1f} s, "
        f"{record.get('compile_seconds', 0):.1f} s of it compiling"
    )


def _named(record):
    told = ("validation", "codebook_perplexity", "dead_codewords", "bit_entropy")
    return "  ".join(
        f"{name.replace('_', ' ')} {_short(record[name])}" for name in told if name in record
    )


def _console():
    # FORCE_COLOR, which notebooks set, lets rich take a pipe for a terminal.
    shown = sys.stderr if _on_stderr else sys.stdout
    return Console(file=shown, force_terminal=None if shown.isatty() else False, quiet=_silent)
