"""What a cell of a notebook shows: one bar, short values, a table; run by a real kernel."""

import nbclient
import nbformat
import pytest

SETUP = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
from quantjax import evaluate, train
from tests import toy
experiment = toy.experiment(toy.supervised(), num_epochs=3)
"""


def run(*cells):
    """Executes cells in a fresh kernel; returns the outputs of each behind the set-up."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *cells)]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells[1:]]


@pytest.fixture(scope="module")
def outputs():
    return run(
        "result = train.fit(experiment, after_epoch=evaluate.watcher(experiment), log_every=1)",
        "result",
        "result.history.to_frame()",
        "silent = train.fit(experiment, progress=False)",
        "experiment",
        "evaluate.evaluate_codes([[1, -1], [-1, 1]], [[1, 1], [-1, 1]], [0, 1], [0, 1])",
    )


def test_fit_shows_one_bar_that_ends_with_loss_and_map(outputs):
    (bar,) = outputs[0]
    assert bar.output_type == "display_data"
    html, words = bar.data["text/html"], bar.data["text/plain"]
    steps = 12
    assert f'<progress value="{steps}" max="{steps}"' in html
    assert f"{steps}/{steps} steps" in words
    assert "epoch 3/3" in words
    assert "loss " in words
    assert "validation mAP 0." in words


def test_values_of_a_cell_are_short(outputs):
    for cell in (outputs[1], outputs[4]):
        (shown,) = cell
        assert len(shown.data["text/plain"]) < 400, shown
    assert "stopped" not in outputs[1][0].data["text/plain"]


def test_history_is_a_frame_with_a_row_for_each_record(outputs):
    (frame,) = outputs[2]
    assert "<table" in frame.data["text/html"]
    assert "bit_entropy" in frame.data["text/html"]


def test_without_progress_nothing_is_shown(outputs):
    assert outputs[3] == []


def test_results_are_a_table_in_words(outputs):
    html = outputs[5][0].data["text/html"]
    assert "<td>mAP</td>" in html
    assert "map@all|ties=expected|den=capped|zero=0|dist=hamming" in html
