"""Plots of logged records over steps: all of one run, or one value of several runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantjax.errors import InputError
from quantjax.plots import style

_NOT_METRICS = {
    "step", "epoch", "phase", "after_epoch", "skipped", "steps_per_second", "images_per_second",
    "data_wait", "device_memory_peak", "seconds", "time", "first_step_seconds", "compile_seconds",
    "refresh_seconds", "save_seconds",
}  # fmt: skip
_MOST_MARKERS = 30
_MOST_CHANGES = 12  # of phases that get a line each

Series = tuple[np.ndarray, np.ndarray]


@style.styled
def history(
    records: Sequence[Mapping[str, Any]],
    *,
    metrics: Sequence[str] | None = None,
    window: int | None = None,
    yscale: str = "linear",
    validation_name: str = "validation mAP",
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws the loss, the validation and further metrics of a run over its steps.

    The loss is drawn faint as logged, and as a moving mean. Each phase has a line of its own, since
    losses of two phases are not comparable, and no mean goes across a change of phase. A value that
    is None, NaN or infinite leaves a gap, with a cross on the panel's lower edge.

    Args:
      records: `FitResult.history`, or `quantjax.run.metric_log.read` of metrics.jsonl.
      metrics: Names of the values for the small panels; None for all but rates and memory.
      window: Records in the moving mean; None for a 25th of all.
      yscale: Scale of the loss, "linear" or "log".
      validation_name: Title of the panel with the records' "validation".
      figsize: Inches; None for 6.4 wide and a height that fits the panels.

    Returns:
      Figure whose first axes have the loss and whose second have the validation.

    Raises:
      ValueError: if there are no records, one has no step, a metric is in no record, `window` is
        not above 0, or `yscale` is another.
    """
    steps, epochs = _split(records)
    names = _metric_names(steps, epochs, metrics)
    if window is not None and window < 1:
        raise InputError(f"window must be at least 1 record, got {window}")
    if yscale not in ("linear", "log"):
        raise InputError(f'yscale must be "linear" or "log", got {yscale!r}')
    figure, first, panels = _panels(len(names) + 1, figsize)
    _draw_loss(first, steps, window or max(1, len(steps) // 25))
    first.set(ylabel="loss", yscale=yscale)
    style.plain_numbers(first.yaxis)
    _draw_values(panels[0], epochs, "validation", validation_name, "no validation\nwas measured")
    for ax, name in zip(panels[1:], names, strict=True):
        found = epochs if any(name in record for record in epochs) else steps
        _draw_values(ax, found, name, style.plain(name.replace("_", " ")), "no value is finite")
    for ax in (first, *panels):
        if ax.lines:
            _mark_phases(ax, steps)
    return figure


@style.styled
def histories(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    value: str = "loss",
    ylabel: str | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws one logged value of several runs over their steps, a line for each run.

    A run that never logged the value has no line. Gaps and crosses are those of `history`, the
    crosses of all runs together.

    Args:
      runs: Records of each run by its name, as `history` takes them.
      value: The value's name in the records, such as "loss" or "validation".
      ylabel: Words for the vertical axis; None for the value's name.
      figsize: Inches; None for 6.4 x 3.6.

    Returns:
      The figure.

    Raises:
      ValueError: if no run logged the value, a run has no records, or one has no step.
    """
    series = {
        name: _series([record for part in _split(records) for record in part], value)
        for name, records in runs.items()
        if any(value in record for record in records)
    }
    if not any(np.isfinite(values).any() for _, values in series.values()):
        raise InputError(f"no run logged a finite {value}: name another value")
    figure = style.new_figure(figsize, 3.6)
    ax = figure.subplots()
    handles = []
    for number, (at, values) in enumerate(series.values()):
        colour, dashes = style.look(number)
        # A single record is a point and no line.
        marker = "." if len(at) <= _MOST_MARKERS else ""
        handles += ax.plot(at, values, color=colour, linestyle=dashes, marker=marker)
    # Together, as the crosses of all runs are alike and one number tells of them.
    _mark_gaps(ax, *(np.concatenate(part) for part in zip(*series.values(), strict=True)))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set(xlabel="step", ylabel=style.plain(ylabel or value.replace("_", " ")))
    style.legend_below(figure, handles, [style.plain(name) for name in series])
    return figure


def _panels(number, figsize):
    """Returns a figure with wide axes on top and small axes in two columns below."""
    rows = (number + 1) // 2
    # Two small panels per row below the wide one; sharing x keeps all steps aligned.
    figure = style.new_figure(figsize, 2.3 + 1.25 * rows)
    grid = figure.add_gridspec(1 + rows, 2, height_ratios=[2.0] + [1.0] * rows)
    first = figure.add_subplot(grid[0, :])
    panels = [
        figure.add_subplot(grid[1 + place // 2, place % 2], sharex=first) for place in range(number)
    ]
    first.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in panels[:-2]:
        ax.tick_params(labelbottom=False)
    for ax in (first, *panels[-2:]):
        ax.set_xlabel("step")
    for ax in panels:
        ax.yaxis.set_major_locator(MaxNLocator(3))
    return figure, first, panels


def _split(records):
    """Returns the records of steps and the records of epochs, both sorted by step."""
    if not len(records):
        raise InputError(
            "records are empty: hand in the `history` of what train.fit returned, or "
            'quantjax.run.metric_log.read(workdir / "metrics.jsonl")'
        )
    for number, record in enumerate(records):
        if not isinstance(record, Mapping) or not isinstance(record.get("step"), int):
            raise InputError(f'records need an integer "step", got {record!r:.80} at {number}')
    # A caller may have joined the records of several starts of a run.
    ordered = sorted(records, key=lambda record: record["step"])
    return (
        [record for record in ordered if "after_epoch" not in record],
        [record for record in ordered if "after_epoch" in record],
    )


def _metric_names(steps, epochs, metrics):
    """Returns the names for the small panels, in the order in which they were first logged."""
    logged = dict.fromkeys(
        name
        for name, value in itertools.chain.from_iterable(r.items() for r in (*steps, *epochs))
        if value is None or isinstance(value, int | float)
    )
    if metrics is None:
        return [name for name in logged if name not in {*_NOT_METRICS, "loss", "validation"}]
    unknown = [name for name in metrics if name not in logged]
    if unknown or isinstance(metrics, str):
        raise InputError(f"metrics must be among {', '.join(logged)}, got {metrics!r}")
    return list(metrics)


def _series(records, name) -> Series:
    """Returns steps and values of all records with a name; values that are not finite are NaN."""
    found = [record for record in records if name in record]
    values = np.array([record[name] for record in found], np.float64)  # None is NaN
    values[~np.isfinite(values)] = np.nan
    return np.array([record["step"] for record in found]), values


def _draw_loss(ax, steps, window):
    at, values = _series(steps, "loss")
    if not np.isfinite(values).any():
        style.say(ax, "no loss is finite" if len(at) else "no loss was logged")
        return
    phase_of = np.array([str(record.get("phase", "")) for record in steps if "loss" in record])
    # A phase may be visited several times; the mean must not cross from one visit to the next.
    visits = np.concatenate([[0], np.cumsum(phase_of[1:] != phase_of[:-1])])
    smooth = np.concatenate(
        [moving_mean(values[visits == visit], window) for visit in range(visits[-1] + 1)]
    )
    # In the order of their first visit, for the legend.
    phases = list(dict.fromkeys(phase_of))
    lines = []
    for number, phase in enumerate(phases):
        # NaN where another phase was at work, so that no line joins two of its visits.
        raw, mean = (np.where(phase_of == phase, each, np.nan) for each in (values, smooth))
        colour, dashes = style.look(number)
        ax.plot(at, raw, color=colour, alpha=0.5, linewidth=0.8, marker=".", markersize=3)
        lines += ax.plot(at, mean, color=colour, linestyle=dashes)
    if len(phases) > 1:
        style.legend_below(
            ax.figure, lines, [style.plain(f"loss in phase {phase}") for phase in phases]
        )
    if window > 1:
        ax.set_title(f"line: mean of {window} records")
    _mark_gaps(ax, at, values)


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns a centred moving mean that skips values that are not finite.

    Near the two ends the window shrinks on both sides equally, so that the mean does not lag behind
    a steep start.

    Args:
      values: [N], NaN in gaps, which are left out and stay NaN.
      window: Finite values in a mean; an even number counts as the next odd one.

    Returns:
      [N].
    """
    finite = np.flatnonzero(np.isfinite(values))
    sums = np.concatenate([[0.0], np.cumsum(values[finite])])
    # Over finite values alone: a gap does not make the window smaller.
    places = np.arange(len(finite))
    half = np.minimum(window // 2, np.minimum(places, places[::-1]))
    smooth = np.full(len(values), np.nan)
    smooth[finite] = (sums[places + half + 1] - sums[places - half]) / (2 * half + 1)
    return smooth


def _draw_values(ax, records, name, title, missing):
    at, values = _series(records, name)
    ax.set_title(title)
    if not np.isfinite(values).any():
        style.say(ax, missing)
        return
    ax.plot(at, values, color=style.BLUE, linewidth=1.0, marker=".", markersize=3)
    _mark_gaps(ax, at, values)


def _mark_gaps(ax, at, values):
    """Draws a cross on the lower edge for each non-finite value, and writes their number."""
    gaps = at[~np.isfinite(values)]
    if not len(gaps):
        return
    low = np.full(len(gaps), 0.04)
    ax.plot(gaps, low, "x", color=style.RED, markersize=5, transform=ax.get_xaxis_transform())
    before = ax.get_title(loc="left")
    ax.set_title(f"{before}{', ' if before else ''}×: {len(gaps)} not finite")  # noqa: RUF001


def _mark_phases(ax, steps):
    """Draws a line at each change of phase, unless phases alternate more than 12 times."""
    changes = [
        (before["step"] + after["step"]) / 2
        for before, after in itertools.pairwise(r for r in steps if "phase" in r)
        if before["phase"] != after["phase"]
    ]
    if len(changes) <= _MOST_CHANGES:
        for step in changes:
            ax.axvline(step, color=style.INK, linewidth=0.8, linestyle=(0, (2, 2)))
