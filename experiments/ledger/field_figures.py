"""Draws the bench of `experiments/field.py`: methods by data set, and their mean ranks."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantjax.plots import style
from quantjax.run import files

from .field_results import DATA, SEARCHES, Bench, Ranking, best_first, rankings, read, values_of

_ROW = 0.2  # inches of a method's row
_WIDTH = 8.0  # inches
_DPI = 150
_KINDS = {"seen_in_seen": (style.BLUE, "o"), "unseen_in_unseen": (style.ORANGE, "^")}


def write(results: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes methods.png, and ranks.png of the ranking with the most methods, if there is one.

    Args:
      results: Folder of the ledger's files.
      folder: Where the figures go.
    """
    benches = read(results)
    figures = [("methods", methods(benches))]
    figures += [("ranks", ranks(ranking)) for ranking in rankings(benches)[:1]]
    for name, figure in figures:
        with files.replacing(folder / f"{name}.png") as scratch:
            figure.savefig(scratch, dpi=_DPI, format="png")


@style.styled
def methods(benches: Sequence[Bench]) -> Any:
    """Draws the mAP of each method at 32 bits, a panel for each data set.

    Args:
      benches: From `field_results.read`, one or more.

    Returns:
      The figure: means over seeds as marks, from the least to the largest seed as lines.
    """
    order = _ordered(benches)
    figure, panels = _panels(len(benches), order)
    for ax, bench in zip(panels, benches, strict=True):
        for search, (colour, marker) in _KINDS.items():
            _draw_search(ax, bench, order, search, colour, marker)
        ax.set_title(DATA[bench.data].partition(",")[0])
        ax.set_xlabel("mAP")
        ax.set_xlim(0, 1)
    style.legend_below(figure, *panels[0].get_legend_handles_labels())
    return figure


@style.styled
def ranks(ranking: Ranking) -> Any:
    """Draws the mean ranks of the methods, a panel for each search.

    Args:
      ranking: From `field_results.rankings`.

    Returns:
      The figure; in the band beside the best rank no method differs from the best one.
    """
    places = np.argsort(ranking.ranks[SEARCHES[0]], kind="stable")
    order = [ranking.methods[place] for place in places]
    figure, panels = _panels(len(SEARCHES), order)
    for ax, search in zip(panels, SEARCHES, strict=True):
        found = ranking.ranks[search][places]
        best = found.min()
        ax.axvspan(best, best + ranking.gap, color=style.SKY, alpha=0.25, linewidth=0)
        ax.plot(found, range(len(order)), "o", color=style.BLUE, markersize=4)
        ax.set_title(search.replace("_", " "))
        ax.set_xlabel("mean rank")
        ax.set_xlim(0.5, len(order) + 0.5)
    return figure


def _panels(count, order):
    """Returns a figure with panels that share the methods as rows, the first one on top."""
    height = 1.0 + _ROW * len(order)
    figure = style.new_figure((_WIDTH, height), height)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    panels[0].set_ylim(len(order) - 0.5, -0.5)
    return figure, panels


def _ordered(benches):
    """Returns all methods, in the order of the data set that has the most of them."""
    largest = max(benches, key=lambda bench: len(bench.files))
    rest = [method for bench in benches for method in best_first(bench)]
    return list(dict.fromkeys([*best_first(largest), *rest]))


def _draw_search(ax, bench, order, search, colour, marker):
    """Draws the means and ranges of one search."""
    found = {
        place: [*values.values()]
        for place, method in enumerate(order)
        if (values := values_of(bench.files.get(method, {"runs": []}), search))
    }
    ends = np.array([(min(values), max(values)) for values in found.values()])
    ax.hlines(list(found), *ends.T, color=colour, linewidth=1, alpha=0.6)
    means = [np.mean(values) for values in found.values()]
    label = search.replace("_", " ")
    ax.plot(means, list(found), marker, color=colour, markersize=4, label=label)
