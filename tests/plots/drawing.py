"""What the tests of plots share: drawing to the end, and reading text back."""

import io

from matplotlib.text import Text


def draw(figure):
    """Lays a figure out and goes through all its parts, as layout and labels fail no earlier."""
    figure.draw_without_rendering()


def svg(figure):
    """Renders a figure; returns its SVG."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    return file.getvalue()


def texts(figure):
    """Returns every text that is not empty."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
