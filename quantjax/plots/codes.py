"""Plots of codes: codeword usage, and embeddings before and after quantization in the plane."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from quantjax.errors import InputError
from quantjax.plots import checks, style
from quantjax.quantizers.ema import perplexity

_MOST_USED = 8  # times the uniform share, at which the colours end
_MOST_ROWS = 16  # codebooks that get a label each


@style.styled
def codebook_usage(
    counts: ArrayLike, *, sort: bool = True, figsize: tuple[float, float] | None = None
) -> Figure:
    """Draws how often each codeword is used, and each codebook's perplexity.

    The colour is a codeword's share of its codebook's rows, relative to the uniform share 1 / K, on
    a scale of logarithms from 1/8 to 8. A dead codeword, one without a row, is hatched.

    Args:
      counts: Rows of each codeword, [M, K], such as `quantizers.ema.usage(...).counts`.
      sort: Whether each codebook's codewords are sorted, the most used first; otherwise they are
        in the order of their numbers.
      figsize: Inches; None for 6.4 wide and a height that fits M.

    Returns:
      Figure whose first axes have the heat map and whose second have the perplexities, with a line
      at K, which is the perplexity of uniform use.

    Raises:
      ValueError: if counts is not [M, K] with K of at least 2, or holds negative numbers, or zeros
        alone.
    """
    counts = checks.numbers("counts", counts, "[M, K]")
    (num_codebooks, num_codewords), total = counts.shape, counts.sum()
    if num_codewords < 2 or counts.min() < 0 or not total:
        raise InputError(
            f"counts must be rows of each of at least 2 codewords, [M, K], got {counts.shape} from "
            f"{counts.min():g} to {counts.max():g}: count the codes of some embeddings"
        )
    # A codebook without any row divides by 1, and is all dead.
    shares = num_codewords * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dead = (counts == 0).sum(axis=1)
    figure = style.new_figure(figsize, 1.7 + 0.22 * min(num_codebooks, _MOST_ROWS))
    use, bars = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    _draw_shares(figure, use, -np.sort(-shares, axis=1) if sort else shares)
    order = "codewords, most used first" if sort else "codeword number"
    use.set(xlabel=f"{order}\nhatched: dead, {dead.sum():,} of {counts.size:,}", ylabel="codebook")
    use.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    use.yaxis.set_major_locator(MaxNLocator(_MOST_ROWS, integer=True, min_n_ticks=1))
    bars.barh(
        np.arange(num_codebooks), np.asarray(perplexity(jnp.asarray(counts))), color=style.BLUE
    )
    bars.axvline(num_codewords, color=style.INK, linestyle="--", linewidth=1.0)
    bars.set(xlabel=f"perplexity\nline: K = {num_codewords}", xlim=(0, 1.08 * num_codewords))
    bars.set_xticks([0, num_codewords])
    bars.tick_params(left=False, labelleft=False)
    # More rows would write the numbers over each other.
    if num_codebooks <= _MOST_ROWS:
        for row, number in enumerate(dead):
            bars.annotate(
                f"{number} dead", (1, row), (4, 0), ("axes fraction", "data"),
                textcoords="offset points", va="center", size=8,
            )  # fmt: skip
    return figure


def _draw_shares(figure, ax, shares):
    # Masked cells are transparent: hatches behind the image are seen through them.
    height, width = shares.shape
    behind = Rectangle((-0.5, -0.5), width, height, hatch="/////", linewidth=0)
    behind.set(facecolor=(style.RED, 0.35), edgecolor=style.RED)
    ax.add_patch(behind)
    image = ax.imshow(
        np.ma.masked_equal(shares, 0),
        cmap="cividis",
        norm=LogNorm(1 / _MOST_USED, _MOST_USED),
        aspect="auto",
        zorder=2,
    )
    ax.grid(visible=False)
    bar = figure.colorbar(image, ax=ax, location="top", aspect=50, pad=0.02, extend="both")
    bar.set_ticks(
        [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    )
    bar.ax.minorticks_off()
    bar.set_label("use relative to the uniform share 1/K")


@style.styled
def embedding(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    decoded: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws embeddings as points in the plane, coloured by class.

    The axes are the two largest principal components of `x`; embeddings of two dimensions are drawn
    without projection. Up to 24 classes have a colour and a marker each. More classes are coloured
    in the order of their ids, without a legend.

    Args:
      x: Embeddings [N, D], D at least 2.
      labels: Class ids [N].
      decoded: Embeddings after quantization, [N, D], for a second panel with the same projection
        and the same limits.
      class_names: Name of each class id, for the legend; the ids when None.
      figsize: Inches; None for 6.4 wide.

    Returns:
      Figure with one panel, or two.

    Raises:
      ValueError: if the shapes do not agree, labels are no ids, or an id has no name.
    """
    x = checks.numbers("x", x, "[N, D]")
    if x.shape[1] < 2:
        raise InputError(f"x must have at least 2 dimensions, got {x.shape}")
    labels = _check_labels(labels, len(x), class_names)
    # One projection for both panels: moved points then show the quantization alone.
    project, axes_names = _projection(x)
    clouds = {"embeddings": project(x)}
    if decoded is not None:
        decoded = checks.numbers("decoded", decoded, "[N, D]")
        checks.same_shape("decoded", decoded, "x", x)
        clouds["decoded"] = project(decoded)
    figure = style.new_figure(figsize, 4.8 if decoded is None else 3.8)
    panels = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    classes = np.unique(labels)
    # Equal limits, taken of both panels, for the same reason.
    xlim, ylim = zip(*style.window(np.concatenate([*clouds.values()]), 1.1), strict=True)
    handles = []
    for ax, (name, points) in zip(panels, clouds.items(), strict=True):
        handles = _scatter(ax, points, labels, classes)
        ax.set(xlim=xlim, ylim=ylim, aspect="equal")
        if decoded is not None:
            ax.set_title(name)
        ax.set_xlabel(axes_names[0])
    panels[0].set_ylabel(axes_names[1])
    if not handles:
        note = f"{len(classes):,} classes, coloured in the order of their ids"
        figure.suptitle(note, size=9, x=0.02, ha="left")
    else:
        shown = [str(each) if class_names is None else str(class_names[each]) for each in classes]
        style.legend_below(figure, handles, [style.plain(name) for name in shown])
    return figure


def _check_labels(labels, number, class_names):
    labels = np.asarray(labels)
    if labels.shape != (number,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be class ids [{number}], integers, got {labels.dtype} {labels.shape}"
        )
    if class_names is not None and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise InputError(
            f"class_names must name every class id, got {len(class_names)} names for ids "
            f"{labels.min()} to {labels.max()}"
        )
    return labels


def _projection(x):
    """Returns a projection from [N, D] to the plane [N, 2], and the names of the plane's axes."""
    if x.shape[1] == 2:
        return lambda points: points, ("dimension 1", "dimension 2")
    mean = x.mean(axis=0)
    covariance = (x - mean).T @ (x - mean)
    variances, directions = np.linalg.eigh(covariance)
    directions = directions[:, ::-1][:, :2]
    # The sign is free: the largest weight is positive, so that two figures of one set agree.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, [0, 1]])
    shares = variances[::-1][:2] / max(variances.sum(), np.finfo(np.float64).tiny)
    names = [f"component {i + 1}\n{share:.0%} of variance" for i, share in enumerate(shares)]
    return lambda points: (points - mean) @ directions, names


def _scatter(ax, points, labels, classes):
    """Draws the points; returns the legend's handles, or none for too many classes."""
    size = np.clip(6000 / len(points), 6, 25)
    # A raster inside of an SVG: thousands of its circles are slow to draw.
    options = {"s": size, "linewidths": 0, "alpha": 0.8, "rasterized": len(points) > 2000}
    if len(classes) > len(style.PALETTE) * len(style.MARKERS):
        ranks = np.searchsorted(classes, labels)
        ax.scatter(*points.T, c=ranks, cmap=style.colours_of_many(), **options)
        return []
    handles = []
    for number, each in enumerate(classes):
        marker, colour = divmod(number, len(style.PALETTE))
        look = {"color": style.PALETTE[colour], "marker": style.MARKERS[marker]}
        ax.scatter(*points[labels == each].T, **look, **options)
        handles += ax.plot([], [], **look, linestyle="none", markersize=5)
    return handles
