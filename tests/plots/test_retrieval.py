import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from quantjax import plots
from quantjax.plots import style
from tests.plots.drawing import draw, texts

HITS = np.array([[True, False, True], [False, False, True]])


def pictures(rng, channels=3, dtype="uint8"):
    queries = rng.integers(0, 256, size=(2, 4, 6, channels))
    found = rng.integers(0, 256, size=(2, 3, 4, 6, channels))
    if dtype == "uint8":
        return queries.astype(np.uint8), found.astype(np.uint8)
    return (queries / 255).astype(dtype), (found / 255).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_a_query_and_its_neighbours(rng, channels, dtype):
    queries, found = pictures(rng, channels, dtype)
    figure = plots.neighbours(queries, found, HITS)
    draw(figure)
    images = figure.axes[0].images
    for row in range(2):
        due = [queries[row], *found[row]]
        for place, image in enumerate(images[4 * row : 4 * row + 4]):
            scale = 255 if dtype == "uint8" else 1
            np.testing.assert_allclose(
                np.reshape(image.get_array(), (4, 6, channels)), due[place] / scale, rtol=1e-6
            )
            left, right, bottom, top = image.get_extent()
            assert right - left == pytest.approx(1.5 * (bottom - top))
    assert {"query", "1", "2", "3"} <= set(texts(figure))


def test_hits_and_misses_differ_in_colour_and_in_line(rng):
    figure = plots.neighbours(*pictures(rng), HITS)
    frames = figure.axes[0].patches
    assert [to_hex(frame.get_edgecolor()).upper() for frame in frames] == [
        style.GREEN if hit else style.RED for hit in HITS.ravel()
    ]
    assert [frame.get_linestyle() == "-" for frame in frames] == HITS.ravel().tolist()
    image = figure.axes[0].images[1].get_extent()
    assert frames[0].get_xy() == (image[0], image[3])
    assert {"relevant", "not relevant"} <= set(texts(figure))


def test_titles_axes_and_size_take_effect(rng):
    ax = Figure().add_subplot()
    assert plots.neighbours(*pictures(rng), HITS, titles=["a $5$", "b"], ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == [r"a \$5\$", "b"]
    figure = plots.neighbours(*pictures(rng), HITS, figsize=(5, 2))
    assert tuple(figure.get_size_inches()) == (5, 2)


def test_one_query_with_one_neighbour_is_drawn(rng):
    queries, found = pictures(rng)
    draw(plots.neighbours(queries[:1], found[:1, :1], HITS[:1, :1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, n, h: (q[0], n, h), r"query_images must have shape \[Q, H, W, C\]"),
        (lambda q, n, h: (q, n[:1], h), r"of the queries' \(2, 4, 6, 3\), got \(1, 3"),
        (lambda q, n, h: (q, n, h[:, :2]), r"hits must be bool \(2, 3\), got bool \(2, 2\)"),
        (lambda q, n, h: (q, n, h.astype(int)), "hits must be bool"),
        (lambda q, n, h: (q[..., :2], n[..., :2], h), "1 or 3 channels"),
        (lambda q, n, h: (q.astype(int), n, h), "query_images must be uint8, or floats"),
        (lambda q, n, h: (q.astype(float), n, h), "query_images must be from 0 to 1"),
    ],
)
def test_wrong_images_are_one_line(rng, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        plots.neighbours(*change(*pictures(rng), HITS))
    assert "\n" not in str(caught.value)


def filled(figure):
    """Returns heights and edges of the two filled histograms."""
    return [patch.get_data()[:2] for patch in figure.axes[0].patches[::2]]


def test_whole_distances_lie_in_the_middle_of_their_bins():
    figure = plots.distances([0, 1, 1, 2], [2, 2, 4], unit="bits")
    draw(figure)
    (similar, edges), (dissimilar, other) = filled(figure)
    np.testing.assert_array_equal(edges, [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_array_equal(edges, other)
    np.testing.assert_allclose(similar, [1 / 4, 1 / 2, 1 / 4, 0, 0])
    np.testing.assert_allclose(dissimilar, [0, 0, 2 / 3, 0, 1 / 3])
    assert {"overlap: 25.0%", "distance (bits)", "4 similar pairs", "3 dissimilar pairs"} <= set(
        texts(figure)
    )


def test_whole_distances_have_whole_ticks():
    whole, real = (plots.distances([0, most], [most / 2, most]) for most in (16, 17))
    assert all(tick == round(tick) for tick in whole.axes[0].get_xticks())
    assert any(tick != round(tick) for tick in real.axes[0].get_xticks())


def test_many_whole_distances_share_bins_of_equal_numbers():
    figure = plots.distances(np.arange(100), np.arange(50, 200), num_bins=20)
    edges = filled(figure)[0][1]
    np.testing.assert_array_equal(edges, np.arange(0, 201, 10) - 0.5)


def test_real_distances_have_equal_bins_from_end_to_end(rng):
    similar, dissimilar = rng.random(50), 0.5 + rng.random(70)
    figure = plots.distances(similar, dissimilar, num_bins=8)
    due = np.linspace(similar.min(), dissimilar.max(), 9)
    for (heights, edges), given in zip(filled(figure), (similar, dissimilar), strict=True):
        np.testing.assert_allclose(edges, due)
        np.testing.assert_allclose(heights, np.histogram(given, due)[0] / len(given))


@pytest.mark.parametrize("value", [0.25, 3])
def test_equal_distances_overlap_wholly(value):
    figure = plots.distances([value], [value, value], figsize=(4, 3))
    draw(figure)
    assert "overlap: 100.0%" in texts(figure)
    ax = Figure().add_subplot()
    assert plots.distances([value], [value], ax=ax) is ax


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.distances([], [1]), r"similar must have shape \[pairs\] and not be empty"),
        (lambda: plots.distances([1], [np.inf]), "dissimilar must be numbers, got inf"),
        (lambda: plots.distances([1], [2], num_bins=0), "num_bins must be at least 1, got 0"),
        (lambda: plots.class_confusion([[0.5, 0.5]]), "square"),
        (lambda: plots.class_confusion([[np.nan]]), "not all NaN"),
        (lambda: plots.class_confusion([[3.0]]), "matrix must be from 0 to 1"),
        (lambda: plots.class_confusion([[1.0]], ["a", "b"]), "class_names must be 1 names"),
    ],
)
def test_wrong_numbers_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_matrix_is_drawn_with_its_numbers_and_names():
    matrix = np.array([[0.75, 0.25], [0.0, 1.0]])
    figure = plots.class_confusion(matrix, ["cat", "a very long name of a class"])
    draw(figure)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), matrix)
    written = {(t.get_position(), t.get_text()): t.get_color() for t in figure.axes[0].texts}
    assert written == {
        ((0, 0), ".75"): "black",
        ((1, 0), ".25"): "white",
        ((0, 1), ".00"): "white",
        ((1, 1), "1"): "black",
    }
    assert {"cat", "a very long name of…"} <= set(texts(figure))


def test_classes_without_queries_stay_empty():
    matrix = np.array([[1.0, 0.0], [np.nan, np.nan]])
    figure = plots.class_confusion(matrix)
    draw(figure)
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array())[1].all()
    assert len(figure.axes[0].texts) == 2
    assert "empty rows: 1 without queries" in texts(figure)


@pytest.mark.parametrize(
    ("number", "numbers", "names"),
    [(1, 1, 1), (12, 144, 12), (13, 0, 13), (31, 0, 0), (1000, 0, 0)],
)
def test_many_classes_have_no_numbers_and_then_no_names(number, numbers, names):
    figure = plots.class_confusion(np.eye(number))
    draw(figure)
    assert len(figure.axes[0].texts) == numbers
    assert len(figure.axes[0].get_xticks()) == len(figure.axes[0].get_yticks()) == names


def test_names_that_would_be_too_small_are_left_out():
    assert len(plots.class_confusion(np.eye(30), figsize=(3, 2)).axes[0].get_xticks()) == 0
    ax = Figure().add_subplot()
    assert plots.class_confusion(np.eye(3), ax=ax) is ax
