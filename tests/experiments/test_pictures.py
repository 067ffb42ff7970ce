"""README's picture: which queries it shows, and that hits and misses are framed as they are."""

import pathlib

import numpy as np
import pytest

from experiments import pictures
from quantjax import train
from tests import toy
from tests.plots import drawing

PICTURE = pathlib.Path(__file__).parents[2] / "docs" / "pictures" / "neighbours.png"


def test_queries_cut_the_ranking_evenly_and_end_with_the_worst():
    precisions = np.array([0.1, 0.9, 0.5, 0.7, 0.3, 0.8])
    # Best first: 1, 5, 3, 2, 4, 0; thirds begin with the queries 3 and 4.
    np.testing.assert_array_equal(pictures.choose(precisions), [3, 4, 4, 0])
    chosen = pictures.choose(precisions, num_spread=1, num_worst=3)
    np.testing.assert_array_equal(chosen, [2, 2, 4, 0])


def test_equal_precisions_are_chosen_in_the_order_of_queries():
    np.testing.assert_array_equal(pictures.choose(np.ones(6)), [2, 4, 4, 5])


@pytest.fixture(scope="module")
def fitted():
    experiment = toy.experiment(toy.dqn(), num_epochs=1)
    return experiment, train.fit(experiment, progress=False).state


def test_picture_has_four_queries_titled_by_precision(fitted):
    figure = pictures.neighbours(*fitted, num_neighbours=3, figsize=(5, 3))
    drawing.draw(figure)
    (ax,) = figure.axes
    assert len(ax.images) == 4 * (1 + 3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["query", "1", "2", "3"]
    titles = [label.get_text() for label in ax.get_yticklabels()]
    assert all(title.startswith("AP ") for title in titles)
    precisions = [float(title.removeprefix("AP ")) for title in titles]
    assert precisions == sorted(precisions, reverse=True)
    assert len(precisions) == 4


def test_committed_picture_is_small():
    assert PICTURE.stat().st_size < 150_000
