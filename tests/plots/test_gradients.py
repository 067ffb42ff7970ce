import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import plots
from quantjax.plots.gradients import cell_edges, field
from tests.plots.drawing import draw, texts

LINE = np.linspace(-1, 1, 5)
CODEWORDS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])


def test_values_and_gradients_are_those_of_the_functions():
    figure = plots.losses(
        {"square": jnp.square, "hinge": lambda x: jax.nn.relu(0.25 - x)}, LINE, name="cosine"
    )
    draw(figure)
    values, gradients = figure.axes
    np.testing.assert_allclose(values.lines[0].get_xydata().T, [LINE, LINE**2])
    np.testing.assert_allclose(gradients.lines[0].get_xydata().T, [LINE, 2 * LINE])
    np.testing.assert_allclose(values.lines[1].get_ydata(), np.maximum(0.25 - LINE, 0))
    np.testing.assert_allclose(gradients.lines[1].get_ydata(), [-1, -1, -1, 0, 0])
    assert {"square", "hinge", "cosine", "loss", "gradient"} <= set(texts(figure))


def test_gradient_is_that_of_jax_and_not_the_slope():
    def sign(x):
        return x + jax.lax.stop_gradient(jnp.sign(x) - x)

    figure = plots.losses({"sign": sign}, LINE, figsize=(4, 3))
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), np.sign(LINE))
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), np.ones(5))
    assert tuple(figure.get_size_inches()) == (4, 3)


@pytest.mark.parametrize(
    ("functions", "line", "message"),
    [
        ({}, LINE, "functions are empty"),
        ({"two": lambda x: jnp.stack([x, x])}, LINE, r"two must return a scalar, got \(2,\)"),
        ({"pair": lambda x: (x, x)}, LINE, "pair must return a scalar, got None"),
        ({"square": jnp.square}, [1.0], "at least 2 increasing"),
        ({"square": jnp.square}, [1.0, 1.0], "at least 2 increasing"),
        ({"square": jnp.square}, [[1.0]], r"line must have shape \[points\]"),
    ],
)
def test_wrong_losses_are_one_line(functions, line, message):
    with pytest.raises(ValueError, match=message) as caught:
        plots.losses(functions, line)
    assert "\n" not in str(caught.value)


def test_field_equals_the_softmax_written_out(rng):
    points, target = rng.normal(size=(7, 2)), np.array([1.0, -1.0])
    due = []
    for point in points:
        gaps = ((point - CODEWORDS) ** 2).sum(1)
        soft = np.exp(-(gaps - gaps.min()) / 0.7)
        soft /= soft.sum()
        mean = soft @ CODEWORDS
        # d soft-mean / d point = 2 / T * covariance of the codewords.
        covariance = (CODEWORDS - mean).T @ np.diag(soft) @ (CODEWORDS - mean)
        due.append(-2 / 0.7 * covariance @ (CODEWORDS[gaps.argmin()] - target))
    got = field(CODEWORDS, points, target, temperature=0.7)
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-5)


def test_borders_are_where_two_nearest_codewords_are_equally_far(rng):
    codewords = rng.normal(size=(9, 2))
    low, high = np.array([-2.0, -2.0]), np.array([2.0, 2.0])
    edges = cell_edges(codewords, low, high)
    assert (edges >= low - 1e-9).all()
    assert (edges <= high + 1e-9).all()
    inside = edges[:, 0] + (edges[:, 1] - edges[:, 0]) * rng.random((len(edges), 1))
    gaps = np.sort(((inside[:, None] - codewords) ** 2).sum(-1), axis=1)
    np.testing.assert_allclose(gaps[:, 0], gaps[:, 1])
    # Every change of cell along a line across the window crosses a border there.
    at = np.stack([np.linspace(-2, 2, 4001), np.full(4001, 0.3)], axis=1)
    cell = ((at[:, None] - codewords) ** 2).sum(-1).argmin(1)
    changes = at[:-1][cell[1:] != cell[:-1], 0]
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    crossing = (y0 - 0.3) * (y1 - 0.3) < 0
    found = np.sort((x0 + (0.3 - y0) / (y1 - y0) * (x1 - x0))[crossing])
    np.testing.assert_allclose(found, changes, atol=2e-3)


def test_borders_of_two_and_of_equal_codewords_by_hand():
    low, high = np.array([-1.0, -1.0]), np.array([3.0, 1.0])
    for codewords in ([[0.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]):
        edges = cell_edges(np.array(codewords), low, high)
        np.testing.assert_allclose(np.sort(edges[0], axis=0), [[1, -1], [1, 1]])
    assert not len(cell_edges(np.zeros((2, 2)), low, high))


def test_panels_have_arrows_of_their_temperature_and_points(rng):
    x = rng.normal(size=(5, 2))
    figure = plots.voronoi(CODEWORDS, x, temperatures=(0.5, 4.0), target=(3.0, 3.0))
    draw(figure)
    for ax, temperature in zip(figure.axes, (0.5, 4.0), strict=True):
        points, quiver, codewords, star = ax.collections[1:]
        np.testing.assert_allclose(points.get_offsets(), x)
        np.testing.assert_allclose(codewords.get_offsets(), CODEWORDS)
        np.testing.assert_allclose(star.get_offsets(), [[3, 3]])
        due = field(CODEWORDS, quiver.get_offsets(), np.array([3.0, 3.0]), temperature=temperature)
        lengths = np.linalg.norm(due, axis=1)
        got = np.stack([quiver.U, quiver.V], axis=1)
        np.testing.assert_allclose(
            got / np.linalg.norm(got, axis=1, keepdims=True), due / lengths[:, None], atol=1e-5
        )
        assert np.corrcoef(quiver.get_alpha(), np.log(lengths))[0, 1] > 0.999
        assert f"temperature {temperature:g}\ngradient ≤ {lengths.max():.3g}" in texts(figure)


def test_target_is_the_first_codeword_if_none_is_given():
    star = plots.voronoi(CODEWORDS + 1, temperatures=(1.0,)).axes[0].collections[-1]
    np.testing.assert_array_equal(star.get_offsets(), [[1, 1]])


def test_number_of_arrows_and_size_take_effect():
    few, many = (
        plots.voronoi(CODEWORDS, temperatures=(9.0,), num_arrows=n, target=(5, 5), figsize=(3, 3))
        for n in (4, 8)
    )
    assert len(few.axes[0].collections[2].get_offsets()) == 16
    assert len(many.axes[0].collections[2].get_offsets()) == 64
    assert tuple(few.get_size_inches()) == (3, 3)


def test_two_equal_codewords_are_drawn():
    figure = plots.voronoi([[1, 1], [1, 1]], temperatures=(0.1, 0.4))
    draw(figure)
    assert "temperature 0.4\ngradient ≤ 0" in texts(figure)


@pytest.mark.parametrize("spans", [(3, 3), (9, 2), (2, 9), (4, 3.9)])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.by_default("1-spans0", "4-spans3")
def test_no_text_is_cut_off(spans, number):
    codewords = np.array([[-1, -1], [1, 1], [-1, 1], [0, 0]]) * spans
    figure = plots.voronoi(codewords, temperatures=range(1, number + 1))
    draw(figure)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


@pytest.mark.parametrize(
    ("codewords", "options", "message"),
    [
        ([[1.0, 2.0]], {}, "num_codewords must be between 2 and 256, got 1"),
        ([[1.0], [2.0]], {}, "codewords must have 2 dimensions"),
        (CODEWORDS, {"x": [[1.0, 2.0, 3.0]]}, "x must have 2 dimensions"),
        (CODEWORDS, {"target": [1.0]}, "target must have 2 dimensions"),
        (CODEWORDS, {"temperatures": ()}, "needs a temperature"),
        (CODEWORDS, {"temperatures": (0.0,)}, "temperatures must be above 0"),
        (CODEWORDS, {"num_arrows": 0}, "an arrow"),
    ],
)
def test_wrong_codewords_are_one_line(codewords, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        plots.voronoi(codewords, **options)
    assert "\n" not in str(caught.value)
