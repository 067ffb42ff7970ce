"""Plots of search results: neighbour images, distance histograms and class confusion."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from quantjax.errors import InputError
from quantjax.plots import checks, style

_GAP = 0.14  # between two images, in heights of an image
_MOST_NUMBERS = 12  # classes whose matrix has its numbers written
_MOST_NAMES = 30  # classes that are named
_LONGEST = 20  # letters of a class's name
_SMALLEST = 4.5  # points of text


@style.styled
def neighbours(
    query_images: ArrayLike,
    neighbour_images: ArrayLike,
    hits: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure | Axes:
    """Draws images of queries, one per row, with the images of their nearest items.

    A relevant item has a solid green frame, any other item a dashed red one.

    Args:
      query_images: Images [Q, H, W, C], C of 1 or 3: uint8, or floats from 0 to 1.
      neighbour_images: The nearest first, [Q, k, H, W, C].
      hits: Whether each neighbour is relevant to its query, [Q, k] bool.
      titles: Name of each query, [Q].
      ax: Axes to draw on; a new figure when None.
      figsize: Inches of the new figure; None for 6.4 wide and a height that fits the rows.

    Returns:
      The new figure, or `ax`.

    Raises:
      ValueError: if the shapes do not agree, or images are no uint8 and no numbers from 0 to 1.
    """
    queries = _images("query_images", query_images, "[Q, H, W, C]")
    found = _images("neighbour_images", neighbour_images, "[Q, k, H, W, C]")
    hits = np.asarray(hits)
    if found.shape[:1] + found.shape[2:] != queries.shape:
        raise InputError(
            f"neighbour_images must be [Q, k, H, W, C] of the queries' {queries.shape}, "
            f"got {found.shape}"
        )
    if hits.shape != found.shape[:2] or hits.dtype != bool:
        raise InputError(f"hits must be bool {found.shape[:2]}, got {hits.dtype} {hits.shape}")
    names = None if titles is None else checks.names("titles", titles, len(queries))
    num_queries, num_neighbours, height, width, _ = found.shape
    # One unit is an image's height; the queries stand apart by two gaps more.
    lefts = (width / height + _GAP) * np.arange(1 + num_neighbours) + 2 * _GAP * (
        np.arange(1 + num_neighbours) > 0
    )
    right = lefts[-1] + width / height
    tops = (1 + _GAP) * np.arange(num_queries)
    # High enough for square pixels, and not higher than a page.
    inches = style.WIDTH * (tops[-1] + 1) / right
    drawn, result = style.axes_for(ax, figsize, min(inches + 0.8, 12.0))
    for row, top in enumerate(tops):
        _show(drawn, queries[row], lefts[0], top, width / height)
        for column, left in enumerate(lefts[1:]):
            _show(drawn, found[row, column], left, top, width / height)
            frame = Rectangle((left, top), width / height, 1, **_frame(hits[row, column]))
            drawn.add_patch(frame)
    drawn.set(aspect="equal", xlim=(-_GAP, right + _GAP), ylim=(tops[-1] + 1 + _GAP, -_GAP))
    drawn.set_xticks(
        lefts + width / height / 2, labels=["query", *map(str, range(1, 1 + num_neighbours))]
    )
    drawn.set_yticks(
        tops + 0.5 if names else [], labels=[style.plain(name) for name in names or ()]
    )
    drawn.tick_params(bottom=False, labelbottom=False, labeltop=True, left=False)
    drawn.spines[:].set_visible(False)
    drawn.grid(visible=False)
    shown = [
        (Patch(**_frame(hit)), word) for hit, word in ((True, "relevant"), (False, "not relevant"))
    ]
    style.legend(result, shown)
    return result


def _images(name, images, shape):
    """Returns images as floats from 0 to 1."""
    images = np.asarray(images)
    found = checks.numbers(name, images, shape)
    if images.dtype == np.uint8:
        found = found / 255
    elif images.dtype.kind != "f":
        raise InputError(f"{name} must be uint8, or floats from 0 to 1, got {images.dtype}")
    if found.shape[-1] not in (1, 3):
        raise InputError(f"{name} must have 1 or 3 channels, the last axis, got {found.shape}")
    checks.within_0_and_1(name, found)
    return np.clip(found, 0, 1)


def _show(ax, image, left, top, width):
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(left, left + width, top + 1, top))


def _frame(hit):
    return {
        "fill": False,
        "edgecolor": style.GREEN if hit else style.RED,
        "linestyle": "-" if hit else (0, (2, 1)),
        "linewidth": 2.0,
    }


@style.styled
def distances(
    similar: ArrayLike,
    dissimilar: ArrayLike,
    *,
    unit: str = "",
    num_bins: int = 60,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure | Axes:
    """Draws two histograms: distances of similar pairs and of dissimilar pairs.

    Both have the same bins and an area of 1. Whole numbers, such as Hamming distances, lie in the
    middle of their bins. The title names the overlap: the sum over the bins of the smaller share.
    It is 0 % if a threshold separates all pairs, and depends on the bins otherwise.

    Args:
      similar: Distances of pairs that share a label, [pairs].
      dissimilar: Distances of the other pairs, [pairs], of any number.
      unit: Unit of the distances, such as "bits", for the axis.
      num_bins: The most bins.
      ax: Axes to draw on; a new figure when None.
      figsize: Inches of the new figure; None for 6.4 x 3.2.

    Returns:
      The new figure, or `ax`.

    Raises:
      ValueError: if one of the two is empty or not finite, or `num_bins` is not above 0.
    """
    similar = checks.numbers("similar", similar, "[pairs]")
    dissimilar = checks.numbers("dissimilar", dissimilar, "[pairs]")
    if num_bins < 1:
        raise InputError(f"num_bins must be at least 1, got {num_bins}")
    # Common bins, so that the overlap is that of the drawn bars.
    edges = _bins(np.concatenate([similar, dissimilar]), num_bins)
    # Shares and not counts: there are many more dissimilar pairs than similar ones.
    shares = [np.histogram(each, edges)[0] / len(each) for each in (similar, dissimilar)]
    drawn, result = style.axes_for(ax, figsize, 3.2)
    handles = []
    looks = ((style.BLUE, "-"), (style.ORANGE, "--"))
    for share, (colour, dashes) in zip(shares, looks, strict=True):
        drawn.stairs(share, edges, fill=True, color=colour, alpha=0.3, linewidth=0)
        handles.append(drawn.stairs(share, edges, color=colour, linestyle=dashes, linewidth=1.5))
    drawn.set(
        xlabel=f"distance ({unit})" if unit else "distance",
        ylabel="share of pairs",
        title=f"overlap: {np.minimum(*shares).sum():.1%}",
    )
    # Hamming distances between two numbers do not exist.
    if _whole(np.concatenate([similar, dissimilar])):
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn.set_ylim(bottom=0)
    numbers = (f"{len(similar):,} similar pairs", f"{len(dissimilar):,} dissimilar pairs")
    style.legend(result, list(zip(handles, numbers, strict=True)))
    return result


def _whole(values):
    return bool((values == np.round(values)).all())


def _bins(values, most):
    """Returns the edges of bins; for whole numbers edges lie halfway between two numbers."""
    low, high = values.min(), values.max()
    if _whole(values):
        width = max(1, np.ceil((high - low + 1) / most))
        return low - 0.5 + width * np.arange(np.ceil((high - low + 1) / width) + 1)
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    return np.linspace(low, high, most + 1)


@style.styled
def class_confusion(
    matrix: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure | Axes:
    """Draws a matrix: the classes of the nearest items, for the queries of each class.

    Up to 12 classes have their numbers written, and up to 30 their names, cut to 20 letters.

    Args:
      matrix: [L, L], row a and column b: the share of class b among the nearest items of the
        queries of class a, from 0 to 1. A row of NaN is a class without queries, and stays empty.
      class_names: Names [L]; numbers when None.
      ax: Axes to draw on; a new figure when None.
      figsize: Inches of the new figure; None for 6.4 x 5.4.

    Returns:
      The new figure, or `ax`.

    Raises:
      ValueError: if the matrix is not square, has numbers not from 0 to 1, or none.
    """
    matrix = checks.numbers("matrix", matrix, "[L, L]", finite=False)
    if matrix.shape[0] != matrix.shape[1] or np.isnan(matrix).all():
        raise InputError(f"matrix must be square, [L, L], and not all NaN, got {matrix.shape}")
    checks.within_0_and_1("matrix", matrix)
    number = len(matrix)
    given = [str(row) for row in range(number)] if class_names is None else class_names
    names = checks.names("class_names", given, number)
    drawn, result = style.axes_for(ax, figsize, 5.4)
    image = drawn.imshow(matrix, cmap="cividis", vmin=0, vmax=max(np.nanmax(matrix), 1e-6))
    # As high as the matrix, which is square in axes that need not be.
    bar = drawn.figure.colorbar(image, cax=drawn.inset_axes((1.02, 0, 0.03, 1)))
    bar.set_label("share of the nearest items")
    empty = np.isnan(matrix).all(axis=1).sum()
    drawn.set(
        xlabel="class of the nearest items",
        ylabel="class of the query",
        title=f"empty rows: {empty:,} without queries" if empty else "",
    )
    drawn.grid(visible=False)
    _name_classes(drawn, names)
    if number <= _MOST_NUMBERS:
        _write(drawn, image, matrix)
    return result


def _name_classes(ax, names):
    """Writes class names on both axes, as large as fits, or none if unreadable."""
    # The axes may be the caller's, of any size.
    inches = ax.get_window_extent().height / ax.figure.dpi
    size = min(8.0, 40 * inches / len(names))
    if len(names) > _MOST_NAMES or size < _SMALLEST:
        ax.set(xticks=[], yticks=[])
        return
    short = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    short = [style.plain(name) for name in short]
    upright = max(map(len, short)) > 2
    ax.set_xticks(range(len(names)), labels=short, rotation=90 if upright else 0)
    ax.set_yticks(range(len(names)), labels=short)
    ax.tick_params(labelsize=size)


def _write(ax, image, matrix):
    """Writes each share into its cell, black on bright colours and white on dark colours."""
    for row, column in np.argwhere(~np.isnan(matrix)):
        share = float(matrix[row, column])
        bright = np.dot(image.to_rgba(share)[:3], [0.3, 0.6, 0.1]) > 0.5
        words = f"{share:.2f}".removeprefix("0") if share < 0.995 else "1"
        ax.text(
                column, row, words, ha="center", va="center", size=7,
                color="black" if bright else "white",
            )  # fmt: skip
