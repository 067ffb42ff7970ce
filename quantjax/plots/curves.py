"""Plots of precision over recall, and of precision at cut-offs K."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from quantjax.errors import InputError
from quantjax.metrics import PrecisionRecall
from quantjax.plots import checks, style

_MOST_CURVES = 24
_MOST_MARKERS = 30
_MOST_TICKS = 11
_SIGN = 0.075  # inches that a digit of a tick's number takes


@style.styled
def precision_recall(
    recall: ArrayLike,
    precision: ArrayLike,
    *,
    worst: PrecisionRecall | ArrayLike | None = None,
    best: PrecisionRecall | ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure | Axes:
    """Draws precision over recall, with a band from the worst to the best order of ties.

    Args:
      recall: Means over the queries, [points], or [curves, points] of several rankings.
      precision: Means over the queries, of the shape of `recall`.
      worst: Precision in the worst order of ties at the same recall, of recall's shape; or a
        `PrecisionRecall` whose recall is its own, as
        `metrics.precision_recall_curve(..., ties="worst")` gives it at the same cuts.
      best: The same for the best order; both or none.
      labels: Name of each curve.
      ax: Axes to draw on; a new figure when None.
      figsize: Inches of the new figure; None for 6.4 x 4.

    Returns:
      The new figure, or `ax`.

    Raises:
      ValueError: if the shapes do not agree, a number is not from 0 to 1, or there are more than
        24 curves.
    """
    recall, precision = _curves("recall", recall), _curves("precision", precision)
    checks.same_shape("precision", precision, "recall", recall)
    band = _band(
        ("worst", _of_ties("worst", worst, recall)), ("best", _of_ties("best", best, recall))
    )
    shown = _labels(labels, len(recall))
    drawn, result = style.axes_for(ax, figsize, 4.0)
    handles = []
    before = len(drawn.lines)  # of earlier calls on the caller's axes
    for number, (x, y) in enumerate(zip(recall, precision, strict=True)):
        colour, dashes = style.look(before + number)
        handles += drawn.plot(x, y, color=colour, linestyle=dashes)
        if band is not None:
            (worst_x, worst_y), (best_x, best_y) = (edge[:, number] for edge in band)
            # An outline and not a band over recall: both orders of ties have a recall of their own.
            outline = (
                np.concatenate([worst_x, best_x[::-1]]),
                np.concatenate([worst_y, best_y[::-1]]),
            )
            drawn.fill(*outline, color=colour, alpha=0.25, linewidth=0)
    drawn.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    others = [] if band is None else [(_patch(handles), "worst to best order of ties")]
    style.legend(result, [*zip(handles, shown, strict=False), *others])
    return result


@style.styled
def precision_at(
    cutoffs: ArrayLike,
    values: ArrayLike,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    chance: float | None = None,
    labels: Sequence[str] | None = None,
    name: str = "precision",
    band: str = "low to high",
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure | Axes:
    """Draws precision, or another measure, of the first K items over K.

    The axis of K is logarithmic if the largest K is at least 20 times the smallest.

    Args:
      cutoffs: Numbers of items K, increasing, [points].
      values: The measure at each K, from 0 to 1, [points], or [curves, points].
      low: Lower edge of a band, of the shape of values: a confidence interval, or the worst order
        of ties.
      high: Upper edge; both or none.
      chance: The measure of a random ranking, for a horizontal line.
      labels: Name of each curve.
      name: The measure's name, for the vertical axis.
      band: The band's name, for the legend.
      ax: Axes to draw on; a new figure when None.
      figsize: Inches of the new figure; None for 6.4 x 3.6.

    Returns:
      The new figure, or `ax`.

    Raises:
      ValueError: if the shapes do not agree, cutoffs do not increase from 1 on, or a number is not
        from 0 to 1.
    """
    cutoffs, values = _check_cutoffs(cutoffs), _curves("values", values)
    if values.shape[1] != len(cutoffs):
        raise InputError(
            f"values must have {len(cutoffs)} points, as cutoffs, got {values.shape[1]}"
        )
    # Both are checked before either is drawn.
    edges = [
        (key, None if edge is None else _curves(key, edge))
        for key, edge in (("low", low), ("high", high))
    ]
    for key, edge in edges:
        if edge is not None:
            checks.same_shape(key, edge, "values", values)
    sides = _band(*edges)
    if chance is not None:
        checks.within_0_and_1("chance", np.array(chance))
    shown = _labels(labels, len(values))
    drawn, result = style.axes_for(ax, figsize, 3.6)
    handles, marker = [], "." if len(cutoffs) <= _MOST_MARKERS else ""
    before = len(drawn.lines)  # of earlier calls on the caller's axes
    for number, y in enumerate(values):
        colour, dashes = style.look(before + number)
        handles += drawn.plot(cutoffs, y, color=colour, linestyle=dashes, marker=marker)
        if sides is not None:
            drawn.fill_between(
                cutoffs, sides[0][number], sides[1][number], color=colour, alpha=0.25, linewidth=0
            )
    others = [] if sides is None else [(_patch(handles), band)]
    if chance is not None:
        others += [(drawn.axhline(chance, color=style.INK, linestyle=(0, (1, 2))), "chance")]
    _cutoff_axis(drawn, cutoffs)
    drawn.set(xlabel="nearest items K", ylabel=f"{name} at K")
    # From 0, so that curves are compared by height; to the highest, as values are often small.
    drawn.set_ylim(0, min(1.02, 1.1 * max(drawn.dataLim.y1, 1e-3)))
    style.legend(result, [*zip(handles, shown, strict=False), *others])
    return result


def _curves(name, x):
    x = np.asarray(x)
    found = checks.numbers(name, x, "[points]" if x.ndim < 2 else "[curves, points]")
    checks.within_0_and_1(name, found)
    found = np.atleast_2d(found)
    if len(found) > _MOST_CURVES:
        raise InputError(
            f"{name} must be at most {_MOST_CURVES} curves, got {len(found)}: "
            "take the mean over the queries, .mean(0)"
        )
    return found


def _of_ties(name, band, recall):
    """Returns an edge of the band as recall and precision, [2, curves, points]."""
    if band is None:
        return None
    own = isinstance(band, PrecisionRecall)
    x = _curves(f"{name}.recall", band.recall) if own else recall
    y = _curves(name, band.precision if own else band)
    checks.same_shape(name, x, "recall", recall)
    checks.same_shape(name, y, "recall", recall)
    return np.stack([x, y])


def _band(low, high):
    """Returns both edges of a band, or None without edges; a single edge raises ValueError."""
    (low_name, low), (high_name, high) = low, high
    if (low is None) != (high is None):
        raise InputError(f"a band needs {low_name} and {high_name}, got one of them: give both")
    return None if low is None else (low, high)


def _labels(labels, number):
    if labels is not None:
        return checks.names("labels", labels, number)
    return [] if number == 1 else [f"curve {i + 1}" for i in range(number)]


def _check_cutoffs(cutoffs):
    found = checks.numbers("cutoffs", cutoffs, "[points]")
    if found[0] < 1 or (np.diff(found) <= 0).any():
        raise InputError(f"cutoffs must increase from at least 1 on, got {cutoffs!r:.80}")
    return found


def _cutoff_axis(ax, cutoffs):
    """Sets scale and ticks of the K axis: at few cut-offs themselves, else at round numbers."""
    wide = cutoffs[-1] >= 20 * cutoffs[0]
    inches = ax.get_position().width * ax.get_figure(root=True).get_figwidth()
    if wide:
        ax.set_xscale("log")
        ax.minorticks_off()
        # Three numbers of up to six signs in a decade, where they have room.
        roomy = inches >= 1.2 * np.log10(cutoffs[-1] / cutoffs[0])
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if roomy else (1,)))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(cutoffs) <= _MOST_TICKS:
        ax.set_xticks(_apart(cutoffs, np.log(cutoffs) if wide else cutoffs, inches))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _apart(cutoffs, places, inches):
    """Returns the cut-offs whose numbers do not touch, always with the largest."""
    scale = inches / max(np.ptp(places), 1e-9)
    ticks = [len(cutoffs) - 1]
    for row in reversed(range(len(cutoffs) - 1)):
        signs = sum(len(f"{cutoffs[each]:,.0f}") for each in (row, ticks[-1]))
        # Numbers stand around their ticks, so that half of both lies between.
        if (places[ticks[-1]] - places[row]) * scale >= _SIGN * (signs / 2 + 1.5):
            ticks.append(row)
    return cutoffs[ticks[::-1]]


def _patch(handles):
    """Returns the legend's patch for a band; bands of several curves share a grey patch."""
    colour = handles[0].get_color() if len(handles) == 1 else style.INK
    return Patch(color=colour, alpha=0.3, linewidth=0)
