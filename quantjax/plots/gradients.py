"""Plots of gradients: of losses along a line, and of a quantizer over its cells."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from quantjax.arrays import check_positive
from quantjax.errors import InputError
from quantjax.plots import checks, style
from quantjax.quantizers import packing, product

_PER_ROW = 3  # panels
_FAINTEST = 1e-4  # of the longest gradient, that gets an arrow


@style.styled
def losses(
    functions: Mapping[str, Callable[[jax.Array], jax.Array]],
    line: ArrayLike,
    *,
    name: str = "x",
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws losses of a scalar and their gradients by `jax.grad`.

    The gradient is not the slope of the drawn values: at a corner, or for a straight-through
    function, `jax.grad` differs from the slope.

    Args:
      functions: By name, functions of a scalar array that return a scalar.
      line: Numbers to compute them at, increasing, [points].
      name: Name of the scalar, for the horizontal axes.
      figsize: Inches; None for 6.4 x 3.2.

    Returns:
      Figure with the values on the left and the gradients on the right.

    Raises:
      ValueError: if there is no function, one returns no scalar, or line is not increasing.
    """
    line = checks.numbers("line", line, "[points]")
    if len(line) < 2 or (np.diff(line) <= 0).any():
        raise InputError(f"line must be at least 2 increasing numbers, got {line!r:.80}")
    if not functions:
        raise InputError("functions are empty: hand in {name: function of a scalar array}")
    # float32, as losses are trained in.
    at = jnp.asarray(line, jnp.float32)
    for key, function in functions.items():
        shape = getattr(jax.eval_shape(function, at[0]), "shape", None)
        if shape != ():
            raise InputError(f"{key} must return a scalar, got {shape}: reduce it by a sum or mean")
    figure = style.new_figure(figsize, 3.2)
    left, right = figure.subplots(1, 2, sharex=True)
    handles = []
    for number, function in enumerate(functions.values()):
        colour, dashes = style.look(number)
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(function)))(at)
        handles += left.plot(line, np.asarray(values), color=colour, linestyle=dashes)
        right.plot(line, np.asarray(gradients), color=colour, linestyle=dashes)
    for ax, title in ((left, "loss"), (right, "gradient")):
        ax.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
        ax.set(xlabel=name, title=title)
    style.legend_below(figure, handles, [str(key) for key in functions])
    return figure


@style.styled
def voronoi(
    codewords: ArrayLike,
    x: ArrayLike | None = None,
    *,
    temperatures: Sequence[float] = (0.1, 1.0),
    target: ArrayLike | None = None,
    num_arrows: int = 21,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws the Voronoi cells of codewords, and the directions of the quantizer's gradient.

    The field is -d/dp of 1/2 ||q(p) - target||^2 at points p of a grid, as `jax.grad` gives it,
    where q is `quantizers.product.quantize` with one codebook. Forward, q(p) is the nearest
    codeword, so that the loss is constant in a cell. Backward, q is the mean of the codewords by a
    softmax of -||p - c||^2 / temperature. An arrow is thus the direction in which gradient descent
    moves p to bring its codeword nearer to the target. All arrows have one length: the shorter the
    gradient, the fainter its arrow, on a scale of logarithms that ends at 1/10,000 of the panel's
    longest gradient, whose length is in the title.

    Args:
      codewords: [K, 2], K from 2 to 256.
      x: Embeddings to draw as points, [N, 2].
      temperatures: Temperature of the softmax, in units of squared distance; a panel each.
      target: Point [2], drawn as a star; the first codeword when None.
      num_arrows: Arrows along the longer side of the grid.
      figsize: Inches; None for 6.4 wide and a height that fits the panels.

    Returns:
      Figure with a panel for each temperature.

    Raises:
      ValueError: if a shape differs, there are no temperatures, or one is not above 0.
    """
    codewords = checks.numbers("codewords", codewords, "[K, 2]")
    x = codewords[:0] if x is None else checks.numbers("x", x, "[N, 2]")
    target = codewords[0] if target is None else checks.numbers("target", target, "[2]")
    for key, shape in (("codewords", codewords.shape), ("x", x.shape), ("target", target.shape)):
        if shape[-1] != 2:
            raise InputError(f"{key} must have 2 dimensions, got {shape}")
    packing.check_num_codewords(len(codewords))
    if not len(temperatures) or num_arrows < 1:
        raise InputError(
            f"voronoi needs a temperature and an arrow, got {temperatures!r} and {num_arrows}"
        )
    for temperature in temperatures:
        check_positive("temperatures", temperature)
    low, high = style.window(np.concatenate([codewords, x, target[None]]), 1.3)
    columns = min(len(temperatures), _PER_ROW)
    rows = -(-len(temperatures) // columns)
    # Limited, because the layout would cut off titles and axis names next to higher panels.
    steepness = min((high - low)[1] / (high - low)[0], 1.25)
    row_height = steepness * style.WIDTH / max(columns, 2) + 0.9
    figure = style.new_figure(figsize, rows * row_height)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    # A number of ticks that follows the panel's size could change it again, after the layout.
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(4))
    panels[0, 0].yaxis.set_major_locator(MaxNLocator(4))
    borders = cell_edges(codewords, low, high)
    for ax, temperature in zip(panels.flat, temperatures, strict=False):
        ax.add_collection(LineCollection([*borders], colors=style.INK, linewidths=0.8))
        ax.scatter(*x.T, s=5, color=style.SKY, linewidths=0, alpha=0.6)
        longest = _draw_field(ax, codewords, target, temperature, low, high, num_arrows)
        _draw_points(ax, codewords, target)
        ax.set(aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        ax.set_title(f"temperature {temperature:g}\ngradient ≤ {longest:.3g}")
        ax.grid(visible=False)
    for ax in panels.flat[len(temperatures) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel("dimension 1")
    for ax in panels[:, 0]:
        ax.set_ylabel("dimension 2")
    return figure


def _draw_points(ax, codewords, target):
    """Draws the codewords and the target, above the arrows."""
    size = np.clip(800 / len(codewords), 6, 22)  # many codewords would hide their cells
    ax.scatter(*codewords.T, s=size, color=style.RED, linewidths=0, zorder=3)
    ax.scatter(*target, s=110, color=style.ORANGE, marker="*", linewidths=0, zorder=4)


def _draw_field(ax, codewords, target, temperature, low, high, number):
    """Draws the arrows; returns the length of the longest gradient."""
    step = (high - low).max() / number
    across, up = (np.arange(low[i] + step / 2, high[i], step) for i in (0, 1))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    arrows = field(codewords, points, target, temperature=temperature)
    lengths = np.linalg.norm(arrows, axis=1)
    longest = lengths.max()
    # Fainter arrows would show rounding errors as directions.
    seen = lengths > _FAINTEST * longest
    if not seen.any():
        return longest
    points, arrows, lengths = points[seen], arrows[seen], lengths[seen]
    # By logarithm, because gradients fall off exponentially with distance.
    opacity = 1 - 0.85 * np.log(lengths / longest) / np.log(_FAINTEST)
    ax.quiver(
        *points.T, *(0.85 * step * arrows / lengths[:, None]).T, angles="xy", scale_units="xy",
        scale=1, pivot="mid", color=style.BLUE, alpha=opacity, width=0.006, zorder=2,
    )  # fmt: skip
    return longest


def field(
    codewords: np.ndarray, points: np.ndarray, target: np.ndarray, *, temperature: float
) -> np.ndarray:
    """Returns the gradient field that `voronoi` draws.

    Args:
      codewords: [K, 2].
      points: [P, 2].
      target: [2].
      temperature: As of `product.quantize`.

    Returns:
      Negative gradients at the points, [P, 2].
    """
    arrays = (jnp.asarray(each, jnp.float32) for each in (points, codewords, target, temperature))
    return -np.asarray(_gradient(*arrays), np.float64)


@jax.jit
@jax.grad
def _gradient(points, codewords, target, temperature):
    quantized = product.quantize(codewords[None], points, temperature=temperature)
    return 0.5 * jnp.sum(jnp.square(quantized - target))


def cell_edges(codewords: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the borders between the cells of nearest codewords, inside a window.

    Each pair's bisector p(t) = middle + t * direction is cut to the part where no third codeword
    is nearer: each third codeword, and each side of the window, bounds t on one side.

    Args:
      codewords: [K, 2].
      low: Lower left corner of the window, [2].
      high: Upper right corner, [2].

    Returns:
      Both ends of each border, [borders, 2, 2].
    """
    first, second = np.triu_indices(len(codewords), k=1)
    gaps = codewords[second] - codewords[first]
    apart = np.linalg.norm(gaps, axis=1)
    # Equal codewords share a cell, and have no border.
    first, second, gaps = (each[apart > 0] for each in (first, second, gaps))
    directions = np.stack([-gaps[:, 1], gaps[:, 0]], axis=1) / apart[apart > 0][:, None]
    middles = (codewords[first] + codewords[second]) / 2
    # slopes * t <= room, one row for each pair.
    others = codewords[None] - codewords[first][:, None]
    slopes = 2 * np.einsum("pd,pkd->pk", directions, others)
    from_first = middles - codewords[first]
    room = (others**2).sum(-1) - 2 * np.einsum("pd,pkd->pk", from_first, others)
    own = (np.arange(len(codewords)) == first[:, None]) | (
        np.arange(len(codewords)) == second[:, None]
    )
    slopes, room = np.where(own, 0, slopes), np.where(own, 0, room)
    slopes = np.concatenate([slopes, directions, -directions], axis=1)
    room = np.concatenate([room, high - middles, middles - low], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = room / slopes
    start = np.where(slopes < 0, bounds, -np.inf).max(axis=1)
    end = np.where(slopes > 0, bounds, np.inf).min(axis=1)
    kept = (end > start) & ~((slopes == 0) & (room < 0)).any(axis=1)
    ends = np.stack([start, end], axis=1)[kept, :, None]
    return middles[kept][:, None] + ends * directions[kept][:, None]
