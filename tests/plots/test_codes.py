import numpy as np
import pytest

from quantjax import plots
from quantjax.plots import style
from tests.plots.drawing import draw, svg, texts

COUNTS = np.array([[4, 0, 12, 16], [8, 8, 8, 8]])


def points(ax):
    return np.concatenate([each.get_offsets() for each in ax.collections])


def test_heat_map_has_shares_relative_to_uniform_use():
    figure = plots.codebook_usage(COUNTS, sort=False)
    draw(figure)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn.filled(0), [[0.5, 0, 1.5, 2], [1, 1, 1, 1]])
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn)[0], [False, True, False, False])
    assert "codeword number\nhatched: dead, 1 of 8" in texts(figure)


def test_sorting_puts_the_most_used_first_and_says_so():
    figure = plots.codebook_usage(COUNTS)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn.filled(0)[0], [2, 1.5, 0.5, 0])
    assert "codewords, most used first\nhatched: dead, 1 of 8" in texts(figure)


def test_bars_are_perplexities_and_the_line_is_at_k():
    figure = plots.codebook_usage(COUNTS)
    bars = figure.axes[1]
    shares = np.array([1 / 8, 3 / 8, 1 / 2])
    due = [np.exp(-(shares * np.log(shares)).sum()), 4]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], due, rtol=1e-6)
    np.testing.assert_array_equal(bars.lines[0].get_xdata(), [4, 4])
    assert {"1 dead", "0 dead"} <= set(texts(figure))


@pytest.mark.parametrize("shape", [(1, 2), (2, 1000), (64, 256)])
def test_usage_of_any_size_is_drawn(shape):
    draw(plots.codebook_usage(np.arange(np.prod(shape)).reshape(shape), figsize=(4, 3)))


@pytest.mark.parametrize("counts", [[1, 2], [[3], [4]], [[1, -1]], [[0, 0]], np.zeros((0, 4))])
def test_counts_that_are_none_are_one_line(counts):
    with pytest.raises(ValueError, match=r"counts must .*\[M, K\]") as caught:
        plots.codebook_usage(counts)
    assert "\n" not in str(caught.value)


def test_embeddings_of_two_dimensions_are_drawn_as_given(rng):
    x = rng.normal(size=(6, 2))
    figure = plots.embedding(x, [0, 0, 0, 2, 2, 2])
    draw(figure)
    np.testing.assert_allclose(points(figure.axes[0]), x)
    assert {"dimension 1", "dimension 2", "0", "2"} <= set(texts(figure))


def test_wider_embeddings_are_projected_on_their_principal_components(rng):
    x = rng.normal(size=(40, 5)) * [1, 9, 0.1, 3, 0.1] + 100
    labels = np.zeros(40, int)
    figure = plots.embedding(x, labels)
    drawn = points(figure.axes[0])
    _, lengths, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    due = (x - x.mean(0)) @ rows[:2].T
    np.testing.assert_allclose(np.abs(drawn), np.abs(due), atol=1e-9)
    share = lengths[0] ** 2 / (lengths**2).sum()
    assert f"component 1\n{share:.0%} of variance" in texts(figure)
    # The sign is that of the largest weight, whatever the library gives.
    np.testing.assert_allclose(np.sign((x[:, 1] - x[:, 1].mean()) @ drawn[:, 0]), 1)


def test_decoded_has_the_projection_and_the_limits_of_the_embeddings(rng):
    x = rng.normal(size=(20, 4))
    labels = np.arange(20) % 3
    figure = plots.embedding(x, labels, decoded=x + np.array([0, 50, 0, 0]))
    draw(figure)
    left, right = figure.axes
    shift = points(right) - points(left)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-9)
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim()[0] < min(points(left)[:, 0].min(), points(right)[:, 0].min())
    assert {"embeddings", "decoded"} <= set(texts(figure))


def test_no_two_of_24_classes_look_alike_and_more_have_no_legend(rng):
    x = rng.normal(size=(1000, 3))
    figure = plots.embedding(x[:24], np.arange(24))
    handles = figure.legends[0].legend_handles
    assert len({(each.get_color(), each.get_marker()) for each in handles}) == 24
    for number in (25, 1000):
        many = plots.embedding(x, np.arange(1000) % number)
        draw(many)
        assert not many.legends
        assert f"{number:,} classes, coloured in the order of their ids" in texts(many)
        np.testing.assert_array_equal(
            many.axes[0].collections[0].get_array(), np.arange(1000) % number
        )


def test_class_names_are_by_id_and_not_by_order(rng):
    figure = plots.embedding(
        rng.normal(size=(4, 2)), [3, 1, 1, 3], class_names=["a", "b", "c", "$d$"]
    )
    draw(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", r"\$d\$"]
    colours = [tuple(each.get_facecolor()[0][:3]) for each in figure.axes[0].collections]
    assert len(set(colours)) == 2


@pytest.mark.parametrize("x", [[[0.0, 0.0, 0.0]], [[1.0, 2.0]] * 3])
def test_one_class_and_equal_points_are_drawn(x):
    draw(plots.embedding(x, [7] * len(x), figsize=(4, 4)))


def test_many_points_are_a_raster_inside_the_svg(rng):
    assert (
        not plots.embedding(rng.normal(size=(9, 2)), [0] * 9)
        .axes[0]
        .collections[0]
        .get_rasterized()
    )
    figure = plots.embedding(rng.normal(size=(3000, 2)), [0] * 3000)
    drawn = svg(figure)
    assert "<image" in drawn
    assert style.INK in drawn


@pytest.mark.parametrize(
    ("x", "labels", "options", "message"),
    [
        ([1.0, 2.0], [0, 1], {}, r"x must have shape \[N, D\]"),
        ([[1.0], [2.0]], [0, 1], {}, "at least 2 dimensions"),
        ([[1.0, np.nan]], [0], {}, "x must be numbers, got NaN"),
        ([[1.0, 2.0]], [0, 1], {}, r"class ids \[1\]"),
        ([[1.0, 2.0]], [[0]], {}, r"class ids \[1\]"),
        ([[1.0, 2.0]], [0.5], {}, "integers"),
        ([[1.0, 2.0]], [3], {"class_names": "abc"}, "3 names for ids 3 to 3"),
        ([[1.0, 2.0]], [3], {"decoded": [[1.0]]}, r"shape of x, \(1, 2\), got \(1, 1\)"),
    ],
)
def test_wrong_embeddings_are_one_line(x, labels, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        plots.embedding(x, labels, **options)
    assert "\n" not in str(caught.value)
