"""Style of all plots: colours, sizes, legends, and a Figure that needs no display.

All text, axes and ticks have the one grey `INK`, and the background is transparent, so that a
figure can be read on a light page and on a dark one. The colours are those of Okabe and Ito, which
colour-blind people can tell apart; nothing is told by colour alone.

Reference:
  Okabe, Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/.
"""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

INK = "#767676"  # 4.5 to 1 on white, 4.2 to 1 on #111111
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
"""Okabe and Ito's colours without black and yellow, which vanish on a dark or a light page."""

MARKERS = ("o", "^", "s", "P")
LINES = ("-", "--", "-.", ":")
WIDTH = 6.4
"""Inches that a figure is wide if no `figsize` is given."""

styled = matplotlib.rc_context(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": INK,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 9,
        "axes.titleweight": "normal",
        "figure.dpi": 100,
        "figure.edgecolor": "none",
        "figure.facecolor": "none",
        "font.size": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "grid.linewidth": 0.6,
        "hatch.color": INK,
        # An SVG then holds all cells of a matrix, not those that 72 to the inch leave.
        "image.interpolation": "none",
        "legend.borderaxespad": 0.2,
        "legend.columnspacing": 1.2,
        "legend.frameon": False,
        "legend.handlelength": 1.8,
        "lines.linewidth": 1.5,
        "text.color": INK,
        "xtick.color": INK,
        "xtick.labelcolor": "inherit",
        "ytick.color": INK,
        "ytick.labelcolor": "inherit",
    }
)
"""Decorator of the functions that draw: matplotlib's settings inside, the user's own outside."""


class NotebookFigure(Figure):
    """Figure that a notebook shows as a cell's value, and that pyplot does not keep."""

    @styled
    def draw(self, renderer: RendererBase) -> None:
        """Draws with the plots' settings, because matplotlib makes ticks only at this time."""
        super().draw(renderer)

    def _repr_png_(self):
        # Two pixels for one, as screens of high resolution have; the notebook halves them again.
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=2 * self.dpi)
        width, height = (int(inches * self.dpi) for inches in self.get_size_inches())
        return file.getvalue(), {"width": width, "height": height}


def new_figure(figsize: tuple[float, float] | None, height: float) -> Figure:
    """Returns an empty figure with automatic layout.

    Args:
      figsize: Width and height in inches; None for `WIDTH` and `height`.
      height: Inches.

    Returns:
      The figure, which is not registered with pyplot.
    """
    return NotebookFigure(figsize=figsize or (WIDTH, height), layout="constrained")


def axes_for(
    ax: Axes | None, figsize: tuple[float, float] | None, height: float
) -> tuple[Axes, Figure | Axes]:
    """Returns the axes to draw on, and the plot's return value.

    Args:
      ax: The caller's axes, or None for axes on a new figure.
      figsize: As in `new_figure`.
      height: As in `new_figure`.

    Returns:
      The axes; the caller's axes again, or the new figure.
    """
    if ax is not None:
        return ax, ax
    figure = new_figure(figsize, height)
    return figure.add_subplot(), figure


class _PlainLogFormatter(LogFormatter):
    """Formatter that labels the same ticks as matplotlib's, with plain numbers."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_numbers(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers.

    matplotlib's own labels are mathtext, which `text.parse_math` would leave unread here.

    Args:
      axis: Axis such as `ax.yaxis`; an axis of another scale is not changed.
    """
    if axis.get_scale() == "log":
        axis.set_major_formatter(_PlainLogFormatter())
        # The same conditions as matplotlib's: numbers between decades where there are few decades.
        axis.set_minor_formatter(_PlainLogFormatter(minor_thresholds=(1, 0.4)))


def window(points: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of a window around points, its sides at most 3 to 1.

    Args:
      points: [N, 2].
      margin: Sides of the window, relative to those of the points' own box.

    Returns:
      The lower left and the upper right corner, [2] each.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    spans = margin * np.maximum(high - low, max((high - low).max(), 1e-6) / 3)
    return (low + high - spans) / 2, (low + high + spans) / 2


def say(ax: Axes, words: str) -> None:
    """Writes a reason into the middle of empty axes."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", size=8)
    # Not `set_xticks([])`, which would take the ticks from axes that share this axis.
    ax.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)
    ax.grid(visible=False)


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Draws a legend under all panels, in as many columns as fit the figure's width."""
    # Of text of 8 points; measured, for its real width is known only when it is drawn.
    inches = 0.45 + 0.068 * max(map(len, labels))
    most = max(1, min(len(labels), int(figure.get_figwidth() / inches)))
    # Rows of equal length, not a full one and a rest.
    columns = math.ceil(len(labels) / math.ceil(len(labels) / most))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def legend(result: Figure | Axes, shown: Sequence[tuple[Artist, str]]) -> None:
    """Draws a legend: inside the caller's axes, or below the axes of a new figure.

    Args:
      result: The plot's return value, from `axes_for`.
      shown: Handle and name of each entry; without any nothing is drawn.
    """
    if not shown:
        return
    handles, labels = zip(*shown, strict=True)
    # The caller's figure may have other axes below, which a legend there would cover.
    if isinstance(result, Axes):
        # Names of a call before this one, on the same axes, stay; "chance" comes once.
        earlier = result.get_legend()
        named = {}
        if earlier is not None:
            # None stands for what matplotlib cannot show in a legend, which has no text.
            kept = [handle for handle in earlier.legend_handles if handle is not None]
            texts = [text.get_text() for text in earlier.get_texts()]
            named = dict(zip(texts, kept, strict=True))
        named |= dict(zip(labels, handles, strict=True))
        result.legend(named.values(), named.keys(), loc="best")
    else:
        legend_below(result, handles, labels)


def plain(words: str) -> str:
    """Escapes dollars, so that matplotlib shows a text literally and not as a formula."""
    return words.replace("$", r"\$")


def look(number: int) -> tuple[str, str]:
    """Returns colour and dashes of a line; the first 24 lines all differ in colour or dashes."""
    # Dashes move on by one with each turn of the palette, so that no pair comes twice.
    turn, colour = divmod(number, len(PALETTE))
    return PALETTE[colour], LINES[(colour + turn) % len(LINES)]


def colours_of_many() -> LinearSegmentedColormap:
    """Returns a colour scale for many classes, visible on light and dark pages."""
    return LinearSegmentedColormap.from_list("classes", (BLUE, SKY, GREEN, ORANGE, RED, PURPLE))
