"""Renders the figures of a report page: plots as SVG, queries as pictures, classes as rows."""

import base64
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from quantjax import errors, metrics
from quantjax.report.kept import Kept

KINDS = ("best", "median", "worst")
_MOST_CLASSES = 30  # rows of the table of classes


class Figure(NamedTuple):
    """Figure of the page, or the reason for its absence.

    Attributes:
      name: Identifier in the page.
      title: Heading.
      words: A sentence that explains the figure.
      svg: Markup, or None.
      missing: Reason for the absence of the figure.
    """

    name: str
    title: str
    words: str
    svg: str | None = None
    missing: str | None = None


def of_run(kept: Kept, history: list[dict[str, Any]]) -> Iterator[Figure]:
    """Yields the figures of one run, in the page's order.

    Args:
      kept: From `kept.read`.
      history: Records of metrics.jsonl.
    """
    # A sum, because the number may be missing.
    number = int(np.sum(kept.arrays.get("curves/queries", 0)))
    missing = {**kept.missing}
    if not history:
        missing["training"] = "metrics.jsonl holds no record"
    for name, (draw, source, title, words) in _OF_RUN.items():
        words = words.format(queries=f"{number:,}")
        yield _drawn(
            name, title, words, functools.partial(draw, kept, history), missing.get(source)
        )


def _training(_, history, plots):
    return plots.history(history)


def _precision_recall(kept, _, plots):
    curves = kept.part("curves")
    value, worst, best = (
        metrics.PrecisionRecall(curves[f"precision_{bound}"], curves[f"recall_{bound}"])
        for bound in ("value", "worst", "best")
    )
    return plots.precision_recall(value.recall, value.precision, worst=worst, best=best)


def _precision_at(kept, _, plots):
    curves = kept.part("curves")
    return plots.precision_at(
        curves["cuts"],
        curves["precision_value"],
        low=curves["precision_low"],
        high=curves["precision_high"],
        chance=float(curves["precision_chance"][0]),
        band="95 % interval",
    )


def _distances(kept, _, plots):
    return plots.distances(**kept.part("distances"))


def _usage(kept, _, plots):
    return plots.codebook_usage(**kept.part("usage"))


def _projection(kept, _, plots):
    shown = kept.part("projection")
    names = kept.classes if len(kept.classes) > shown["labels"].max() else None
    return plots.embedding(**shown, class_names=names)


def _confusion(kept, _, plots):
    # Names are kept up to a thousand: with fewer names than classes the numbers stand for them.
    share = kept.arrays["confusion/share"]
    return plots.class_confusion(share, kept.classes if len(kept.classes) == len(share) else None)


_OF_RUN: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "training": (
        _training, "training", "Training", "Loss, and what was measured after epochs: validation "
        "mAP and how evenly codewords or bits are used.",
    ),
    "precision-recall": (
        _precision_recall, "curves", "Precision and recall", "The band is what the order of ties "
        "decides. Measured on {queries} queries, evenly spread.",
    ),
    "precision-at": (
        _precision_at, "curves", "Precision among the nearest", "With its 95 % interval. Measured "
        "on {queries} queries, evenly spread.",
    ),
    "distances": (
        _distances, "distances", "Distances of pairs", "Of queries to items that share a class "
        "with them, and to items that share none.",
    ),
    "usage": (
        _usage, "usage", "Use of the codebooks", "How often each codeword, or each value of a bit, "
        "occurs in the database.",
    ),
    "projection": (
        _projection, "projection", "Embeddings and their codes", "Two principal components of a "
        "sample of the database, and what its codes decode to in the same plane.",
    ),
    "confusion": (
        _confusion, "confusion", "Classes that are mixed up", "Share of each class among the 10 "
        "nearest items of the queries of a class.",
    ),
}  # fmt: skip
"""Of each figure: how it is drawn, the arrays that it needs, title and words."""


def of_runs(names: Sequence[str], kept: Sequence[Kept], histories: Sequence[Any]) -> list[Figure]:
    """Returns the figures that overlay the curves of several runs.

    Args:
      names: Names of the runs.
      kept: Kept arrays of each run.
      histories: Records of each run.
    """
    curves = {name: each.part("curves") for name, each in zip(names, kept, strict=True)}
    curves = {name: each for name, each in curves.items() if each}
    missing = None if curves else "no run kept its curves"

    def precision_recall(plots):
        # A run of fewer items has fewer cuts: its last point is repeated, which nobody sees.
        longest = max(len(each["cuts"]) for each in curves.values())
        sides = (
            [np.pad(each[key], (0, longest - len(each[key])), "edge") for each in curves.values()]
            for key in ("recall_value", "precision_value")
        )
        return plots.precision_recall(*sides, labels=[*curves])

    absent = [name for name in names if name not in curves]
    words = ["Expected over the orders of ties."]
    words += [f"Not kept by {', '.join(absent)}."] if absent else []
    return [
        _drawn(
            "precision-recall", "Precision and recall", " ".join(words), precision_recall, missing
        ),
        _overlaid(names, histories, "validation", "Validation", "validation mAP"),
        _overlaid(names, histories, "loss", "Loss", "loss"),
    ]  # fmt: skip


def _overlaid(names, histories, value, title, ylabel):
    """Returns the figure of a logged value of several runs; those without it are named."""
    runs = dict(zip(names, histories, strict=True))
    having = {name: r for name, r in runs.items() if any(value in each for each in r)}
    words = [f"The {ylabel} as logged."]
    if absent := [name for name in names if name not in having]:
        words.append(f"Not logged by {', '.join(absent)}.")

    def draw(plots):
        return plots.histories(having, value=value, ylabel=ylabel)

    return _drawn(
        value, title, " ".join(words), draw, None if having else f"no run logged a {ylabel}"
    )


def _drawn(name, title, words, draw: Callable[[Any], Any], missing):
    """Draws a figure; if drawing fails, returns the reason instead."""
    if missing is None:
        try:
            return Figure(name, title, words, svg=_svg(draw(_plots()), f"{title}. {words}", name))
        except Exception as error:  # a figure may fail, the page may not
            missing = " ".join(str(error).split())[:300] or type(error).__name__
    return Figure(name, title, words, missing=missing)


def _plots():
    errors.load_package("matplotlib", extra="plots", purpose="this figure")
    return errors.load_package("quantjax.plots", extra="plots", purpose="this figure")


def _svg(figure, alt, name):
    """Converts a figure to inline SVG that scales with the page and uses its text colour."""
    matplotlib = errors.load_package("matplotlib", extra="plots", purpose="this figure")
    ink = _plots().style.INK
    text = io.StringIO()
    # Text stays text, and equal figures give equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    markup = text.getvalue()
    # The plots' single ink colour becomes the page's, light or dark.
    markup = re.sub(re.escape(ink), "currentColor", markup[markup.index("<svg") :], flags=re.I)
    # Identifiers must differ between the figures of one page.
    markup = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", markup)
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.S)
    head, _, body = markup.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    alt = alt.replace('"', "&quot;")
    return f'{head} role="img" aria-label="{alt}">{body}'


def examples(kept: Kept) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the example queries of the page with their neighbours, or the reason for none.

    Args:
      kept: From `kept.read`.
    """
    found = kept.part("examples")
    if "kind" not in found:
        return [], kept.missing.get("examples", "they were not kept")
    pictures, note = None, None
    if "images" not in found:
        note = "The source has no images, so names stand in their place."
    else:
        try:
            rows = zip(found["images"], found["items"], strict=True)
            pictures = [[_data_uri(image) for image in (query, *near)] for query, near in rows]
        except ModuleNotFoundError as error:
            note = f"{error}"
    names, item_names = (json.loads(found[key].tobytes()) for key in ("names", "item_names"))
    width = found["hits"].shape[1]
    rows = []
    for i, kind in enumerate(found["kind"]):
        neighbours = [
            {
                "hit": bool(found["hits"][i, j]),
                "distance": f"{found['distances'][i, j]:.4g}",
                "name": item_names[i * width + j],
                "picture": pictures and pictures[i][1 + j],
            }
            for j in range(width)
        ]
        rows.append(
            {
                "kind": KINDS[kind],
                "name": names[i],
                "value": f"{found['value'][i]:.3f}",
                "picture": pictures and pictures[i][0],
                "neighbours": neighbours,
            }
        )
    return rows, note


def _data_uri(image):
    """Returns an image [H, W, C] uint8 as a PNG in a data URI."""
    pillow = errors.load_package("PIL.Image", extra="plots", purpose="a picture")
    # One channel is grey; a fourth is transparency, which a page needs not.
    image = image[..., 0] if image.shape[-1] == 1 else image[..., :3]
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def classes(kept: Kept) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the rows of the table of classes, the worst first, or the reason for none.

    Args:
      kept: From `kept.read`.
    """
    found = kept.part("per_class")
    if not found:
        return [], kept.missing.get("per_class", "it was not kept")
    value, queries, names = found["value"], found["queries"], kept.classes
    # Classes without a query have no value.
    asked = np.flatnonzero(queries)
    order = asked[np.argsort(value[asked], kind="stable")]
    note = None
    if len(order) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        note = f"The {half} worst and the {half} best of {len(order):,} classes."
        order = np.concatenate([order[:half], order[-half:]])
    rows = [
        {
            "name": names[i] if i < len(names) else str(i),
            "value": float(value[i]),
            "queries": int(queries[i]),
        }
        for i in order
    ]
    return rows, note
