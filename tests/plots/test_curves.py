import itertools
import warnings

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from quantjax import metrics, plots
from tests.plots.drawing import draw, texts

RECALL, PRECISION = np.array([0.1, 0.5, 1.0]), np.array([1.0, 0.75, 0.25])
CUTOFFS, VALUES = [1, 5, 100], np.array([0.9, 0.8, 0.5])


def test_curve_is_the_numbers_given():
    figure = plots.precision_recall(RECALL, PRECISION)
    draw(figure)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata().T, [RECALL, PRECISION])
    assert {"recall", "precision"} <= set(texts(figure))
    assert not figure.legends


def test_band_goes_from_the_worst_order_of_ties_to_the_best():
    figure = plots.precision_recall(
        RECALL, PRECISION, worst=PRECISION - 0.1, best=PRECISION / 2 + 0.5
    )
    draw(figure)
    outline = figure.axes[0].patches[0].get_xy()
    np.testing.assert_allclose(outline[:3], np.stack([RECALL, PRECISION - 0.1], 1))
    np.testing.assert_allclose(outline[3:6], np.stack([RECALL, PRECISION / 2 + 0.5], 1)[::-1])
    assert "worst to best order of ties" in texts(figure)


def test_band_of_curves_has_a_recall_of_its_own(rng):
    distances = rng.integers(0, 4, size=(9, 50))
    relevant = rng.random((9, 50)) < 0.3
    worst, mean, best = (
        metrics.PrecisionRecall(*(np.asarray(part).mean(0) for part in curve))
        for curve in (
            metrics.precision_recall_curve(distances, relevant, cuts=[1, 5, 20], ties=ties)
            for ties in ("worst", "expected", "best")
        )
    )
    figure = plots.precision_recall(mean.recall, mean.precision, worst=worst, best=best)
    outline = figure.axes[0].patches[0].get_xy()
    np.testing.assert_allclose(outline[:3], np.stack([worst.recall, worst.precision], 1))
    np.testing.assert_allclose(outline[3:6], np.stack([best.recall, best.precision], 1)[::-1])


def test_several_curves_have_names_and_differ_in_more_than_colour():
    both = np.stack([PRECISION, PRECISION / 2])
    figure = plots.precision_recall(np.stack([RECALL] * 2), both, labels=["signs", "floats"])
    draw(figure)
    lines = figure.axes[0].lines
    np.testing.assert_array_equal([line.get_ydata() for line in lines], both)
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert {"signs", "floats"} <= set(texts(figure))
    named = plots.precision_recall(np.stack([RECALL] * 2), both)
    assert {"curve 1", "curve 2"} <= set(texts(named))


@pytest.mark.parametrize("plot", [plots.precision_recall, plots.precision_at])
def test_the_callers_axes_are_drawn_on_and_returned(plot):
    ax = Figure().add_subplot()
    first = RECALL if plot is plots.precision_recall else CUTOFFS
    assert plot(first, PRECISION, labels=["mine"], ax=ax) is ax
    assert len(ax.lines) == 1
    # A second call on the same axes has a look of its own, and keeps the first one's name.
    plot(first, PRECISION / 2, labels=["theirs"], ax=ax)
    mine, theirs = ax.lines
    assert mine.get_color() != theirs.get_color()
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["mine", "theirs"]
    colours = [handle.get_color() for handle in legend.legend_handles]
    assert colours == [mine.get_color(), theirs.get_color()]


def test_values_at_cutoffs_are_drawn_with_band_and_chance():
    figure = plots.precision_at(
        CUTOFFS, VALUES, low=VALUES - 0.1, high=VALUES + 0.05, chance=0.25, name="recall",
        band="95 % interval", figsize=(4, 3),
    )  # fmt: skip
    draw(figure)
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata().T, [CUTOFFS, VALUES])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.25, 0.25])
    vertices = ax.collections[0].get_paths()[0].vertices
    for x, low, high in zip(CUTOFFS, VALUES - 0.1, VALUES + 0.05, strict=True):
        heights = vertices[vertices[:, 0] == x, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [low, high])
    assert {"recall at K", "95 % interval", "chance"} <= set(texts(figure))
    assert ax.get_ylim()[0] == 0
    assert tuple(figure.get_size_inches()) == (4, 3)


def test_wide_cutoffs_have_a_logarithmic_axis_with_plain_numbers():
    figure = plots.precision_at([1, 10, 1000], VALUES)
    draw(figure)
    assert figure.axes[0].get_xscale() == "log"
    assert {"1", "10", "1,000"} <= set(texts(figure))
    assert plots.precision_at([10, 20, 30], VALUES).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("width", [3, 6.4])
@pytest.mark.parametrize(
    "cutoffs",
    [[10], [1, 2, 3], [1, 9, 10], [100, 101], [7, 200], [100, 1000, 54000], range(1, 80)],
)
def test_numbers_of_items_do_not_touch_nor_come_twice(cutoffs, width):
    figure = plots.precision_at(cutoffs, np.linspace(1, 0, len(cutoffs)), figsize=(width, 3))
    draw(figure)
    low, high = figure.axes[0].get_xlim()
    # A locator has ticks beyond the ends too, which nobody sees.
    labels = [t for t in figure.axes[0].get_xticklabels() if low <= t.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))
    numbers = [label.get_text() for label in labels]
    assert len({*numbers}) == len(numbers)
    if len(cutoffs) <= 3:
        # Few cut-offs have the ticks, and the largest always has one.
        assert {*numbers} <= {f"{cutoff:,}" for cutoff in cutoffs}
        assert f"{cutoffs[-1]:,}" in numbers


def test_a_legend_with_an_artist_that_it_cannot_show_goes_on():
    ax = Figure().add_subplot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, of the artist
        ax.legend([Artist(), ax.plot([])[0]], ["none", "theirs"])
    plots.precision_at(CUTOFFS, VALUES, labels=["mine"], ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["theirs", "mine"]
    many = plots.precision_at(np.arange(1, 101), np.linspace(1, 0, 100))
    draw(many)
    assert {"2", "50", "100"} <= set(texts(many))


@pytest.mark.parametrize("cutoffs", [[3], [1], [2000]])
def test_one_cutoff_is_drawn(cutoffs):
    figure = plots.precision_at(cutoffs, [0.0])
    draw(figure)
    assert f"{cutoffs[0]:,}" in texts(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.precision_recall([], []), r"recall must have shape \[points\]"),
        (lambda: plots.precision_recall(RECALL, PRECISION[:2]), r"shape of recall, \(1, 3\)"),
        (lambda: plots.precision_recall(RECALL, PRECISION + 1), "precision must be from 0 to 1"),
        (lambda: plots.precision_recall(RECALL, PRECISION * np.nan), "got NaN"),
        (lambda: plots.precision_recall(*[np.ones((25, 3))] * 2), "mean over the queries"),
        (lambda: plots.precision_recall(RECALL, PRECISION, worst=PRECISION), "worst and best"),
        (lambda: plots.precision_recall(RECALL, PRECISION, labels="one"), "1 names, got 'one'"),
        (lambda: plots.precision_at([5, 5, 6], VALUES), "must increase from at least 1"),
        (lambda: plots.precision_at([0, 5, 6], VALUES), "must increase from at least 1"),
        (lambda: plots.precision_at([5, 6], VALUES), "2 points, as cutoffs, got 3"),
        (lambda: plots.precision_at(CUTOFFS, VALUES, low=VALUES), "low and high"),
        (lambda: plots.precision_at(CUTOFFS, VALUES, low=VALUES[:2], high=VALUES[:2]), "low must"),
        (lambda: plots.precision_at(CUTOFFS, VALUES, chance=2), "chance must be from 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
