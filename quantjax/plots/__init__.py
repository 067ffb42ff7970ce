"""Plots: functions of arrays, or of logged records, that return a matplotlib figure.

They need the extra `plots`. A figure belongs to the caller: pyplot does not know it, no display is
needed, and a notebook shows it as the value of a cell. A function that takes `ax` draws there and
returns it; text and axes then keep the look that the caller gave them.
"""

import importlib.util

from quantjax.errors import MissingPackageError

if importlib.util.find_spec("matplotlib") is None:
    raise MissingPackageError(
        "plots need matplotlib, which is not installed: pip install 'quantjax[plots]'"
    )

from quantjax.plots.codes import codebook_usage, embedding
from quantjax.plots.curves import precision_at, precision_recall
from quantjax.plots.gradients import losses, voronoi
from quantjax.plots.retrieval import class_confusion, distances, neighbours
from quantjax.plots.training import histories, history

__all__ = [
    "class_confusion",
    "codebook_usage",
    "distances",
    "embedding",
    "histories",
    "history",
    "losses",
    "neighbours",
    "precision_at",
    "precision_recall",
    "voronoi",
]
