import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from quantjax import plots
from quantjax.plots import style
from tests.plots.drawing import draw

RECORDS = [{"step": step, "loss": 1.0 / step, "phase": "joint"} for step in range(1, 9)]


def luminance(colour):
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_ink_is_read_on_light_and_dark_pages(page):
    low, high = sorted([luminance(style.INK), luminance(page)])
    assert (high + 0.05) / (low + 0.05) > 4


def test_text_and_axes_have_one_grey_and_the_background_none():
    svg = draw(plots.history(RECORDS)).lower()
    assert style.INK in svg
    for colour in ("#000000", "#ffffff", "black", "white"):
        assert colour not in svg


def test_the_users_settings_do_not_reach_the_plot():
    due = draw(plots.history(RECORDS))
    with matplotlib.rc_context({"text.color": "red", "axes.edgecolor": "red", "font.size": 30}):
        got = draw(plots.history(RECORDS))
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
