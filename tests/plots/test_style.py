import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.colors import to_hex, to_rgb
from matplotlib.spines import Spine
from matplotlib.text import Text

from quantjax import plots
from quantjax.plots import style
from tests.plots.drawing import svg

EVERY_PLOT = {
    "class_confusion": lambda: plots.class_confusion([[0.5, 0.5], [0.0, 1.0]]),
    "codebook_usage": lambda: plots.codebook_usage([[1, 0], [2, 3]]),
    "distances": lambda: plots.distances([1, 2], [2, 3]),
    "embedding": lambda: plots.embedding([[1.0, 2, 3], [4, 6, 5]], [0, 1], decoded=np.ones((2, 3))),
    "histories": lambda: plots.histories({"a": RECORDS, "b": RECORDS[:1]}),
    "history": lambda: plots.history(RECORDS, yscale="log"),
    "losses": lambda: plots.losses({"square": lambda x: x**2}, [0.0, 1.0]),
    "neighbours": lambda: plots.neighbours(
        np.zeros((1, 2, 2, 1)), np.zeros((1, 1, 2, 2, 1)), np.ones((1, 1), bool)
    ),
    "precision_at": lambda: plots.precision_at(
        [1, 50], [1, 0.5], low=[0, 0], high=[1, 1], chance=0.1
    ),
    "precision_recall": lambda: plots.precision_recall([0, 1], [1, 0], worst=[0, 0], best=[1, 1]),
    "voronoi": lambda: plots.voronoi([[0, 0], [1, 1]], temperatures=(1.0,)),
}
RECORDS = [{"step": step, "loss": 1.0 / step, "phase": "joint"} for step in range(1, 9)]


def luminance(colour):
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_ink_is_read_on_light_and_dark_pages(page):
    low, high = sorted([luminance(style.INK), luminance(page)])
    assert (high + 0.05) / (low + 0.05) > 4


@pytest.mark.parametrize("name", plots.__all__)
def test_text_and_axes_have_one_grey_and_the_background_none(name):
    figure = EVERY_PLOT[name]()
    svg(figure)
    on_cells = set(figure.axes[0].texts) if name == "class_confusion" else set()
    for text in set(figure.findobj(Text)) - on_cells:
        assert not text.get_text() or to_hex(text.get_color()) == style.INK, text
    for spine in figure.findobj(Spine):
        assert to_hex(spine.get_edgecolor()) == style.INK
    for tick in figure.findobj(Tick):
        assert {to_hex(line.get_color()) for line in (tick.tick1line, tick.gridline)} == {style.INK}
    for patch in (figure.patch, *(ax.patch for ax in figure.axes)):
        assert patch.get_facecolor()[3] == 0


def test_the_users_settings_do_not_reach_the_plot():
    due = svg(plots.history(RECORDS))
    with matplotlib.rc_context({"text.color": "red", "axes.edgecolor": "red", "font.size": 30}):
        got = svg(plots.history(RECORDS))
    assert "#ff0000" not in got
    assert due.count("<use") == got.count("<use")


def test_a_notebook_shows_a_figure_once_and_halves_its_pixels():
    from IPython.core.formatters import DisplayFormatter

    figure = plots.history(RECORDS, figsize=(4.0, 3.0))
    data, metadata = DisplayFormatter().format(figure)
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"] == {"width": 400, "height": 300}
    # Width and height of a PNG are in its header.
    assert int.from_bytes(data["image/png"][16:20], "big") == 800
    assert int.from_bytes(data["image/png"][20:24], "big") == 600


def test_without_matplotlib_the_import_names_the_extra():
    program = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
from quantjax.errors import QuantjaxError
try:
    import quantjax.plots
except ImportError as error:
    print(isinstance(error, QuantjaxError), error)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout == (
        "True plots need matplotlib, which is not installed: pip install 'quantjax[plots]'\n"
    )
