"""Renders the tables of docs/results.md from the ledger's files.

Every file gets a row. The names below give known methods and data their order and their words;
others come after them, under their own names.
"""

import json
import pathlib
from typing import Any

import numpy as np

from experiments import hypotheses
from quantjax.errors import InputError

_BEGIN, _END = "<!-- ledger: begin -->", "<!-- ledger: end -->"
_BITS = (16, 32, 48)

_DATA = {
    "cifar10_features": "CIFAR-10 (JPEG), protocol `i`, features of EfficientNet-Lite0",
    "cifar10_finetuned": "CIFAR-10 (JPEG), protocol `i`, EfficientNet-Lite0 fine-tuned",
    "cifar10": "CIFAR-10 (JPEG), protocol `i`, from scratch",
    "fashion_mnist": "Fashion-MNIST, protocol `i`",
    "clothing_features": "Clothing photos, test asks train, features of EfficientNet-Lite0",
    "mnist": "Digits, `mnist5k`",
}
"""Endings of file names, in the order of the tables."""

_METHODS = {
    "dqn": "DQN",
    "dqn_ste": "DQN, codebooks trained",
    "adsq": "ADSQ (reconstruction)",
    "triplet_quantization": "triplet quantization (reconstruction)",
    "deepquan": "DeepQuan (reconstruction), no labels",
}
_CODES = {
    "features": "no code",
    "pq": "PQ, no labels",
    "opq": "OPQ, no labels",
    "itq": "ITQ, no labels",
    "lsh": "LSH, no labels",
    "class-id code": "class-id code",
}
_PAPER = {
    ("dqn", "cifar10_features"): {32: 0.564, 48: 0.580},
    ("dqn", "cifar10_finetuned"): {32: 0.564, 48: 0.580},
    ("dqn", "cifar10"): {32: 0.564, 48: 0.580},
}
"""Attested numbers: of CIFAR-10, AlexNet fine-tuned, 5,000 training images."""


def update(page: pathlib.Path, results: pathlib.Path, *, check: bool = False) -> None:
    """Writes the tables between the two marks of a page.

    Args:
      page: Markdown file that holds both marks.
      results: Folder of the ledger's files.
      check: Whether to write nothing, and raise ValueError if the tables differ.

    Raises:
      ValueError: if a mark is missing or, when checking, the tables differ.
    """
    text = page.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise InputError(f"{page.name} must have the lines {_BEGIN} and {_END}")
    due = f"{before}{_BEGIN}\n{render(results)}{_END}{after}"
    if check and due != text:
        raise InputError(
            f"{page.name} has other tables than the ledger's files; run "
            "python -m experiments.ledger table"
        )
    if due != text:
        page.write_text(due)


def render(results: pathlib.Path) -> str:
    """Returns all tables as Markdown.

    Args:
      results: Folder of the ledger's files.
    """
    files = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    groups: dict[str, list[Any]] = {data: [] for data in _DATA}
    for file in files:
        groups.setdefault(_split(file["name"])[1] or _protocol(file), []).append(file)
    parts = [_verdicts(results)]
    for data, of_data in groups.items():
        title = _DATA.get(data, data)
        main = [file for file in of_data if "." not in file["name"]]
        ablations = [file for file in of_data if "." in file["name"]]
        if main:
            parts.append(_main_table(title, data, main))
        if ablations:
            parts.append(_ablation_table(title, main, ablations))
    return "\n".join(part for part in parts if part)


def _protocol(file):
    """Returns the title of the table of an entry with unknown data: its protocol."""
    found = {run["protocol"] for run in file["runs"] if "protocol" in run}
    return f"Protocol `{', '.join(sorted(found)) or 'unknown'}`"


def _words(method):
    """Returns a method's display name: its known name, or its file's name."""
    return _METHODS.get(method, method.replace("_", " "))


def _split(name):
    """Splits an entry's name into method and data."""
    file = name.partition(".")[0]
    data = max((each for each in _DATA if file.endswith(f"_{each}")), key=len, default="")
    return file.removesuffix(f"_{data}") if data else file, data


def _verdicts(results):
    """Returns the table of hypotheses, or "" if no hypothesis was run."""
    head = ["| hypothesis | found (95 % over seeds) | verdict |", "|---|---|---|"]
    lines = []
    for each in hypotheses.HYPOTHESES:
        try:
            values = hypotheses.values_of(results, each.arms)
            found, verdict = each.decide(values)
        except (FileNotFoundError, KeyError, ValueError):
            found, verdict = "", "not run"
        lines.append(f"| {each.claim} | {found} | {verdict} |")
    if all(line.endswith("| not run |") for line in lines):
        return ""
    return "\n".join([*head, *lines]) + "\n"


def _main_table(title, data, files):
    head = " | ".join(f"{bits} bits" for bits in _BITS)
    lines = [
        f"**{title}**\n",
        f"| method | {head} | real, 32 | paper, 32 | time | commit |",
        f"|---|{'---|' * len(_BITS)}---|---|---|---|",
    ]
    order = list(_METHODS)
    files = sorted(files, key=lambda file: _rank(_split(file["name"])[0], order))
    for file in files:
        method = _split(file["name"])[0]
        names = _names(file)
        if names and "codes" not in names:  # codes of features, no method trained
            lines += _code_lines(file, names)
            continue
        cells = [_cell(file, bits, "codes") for bits in _BITS]
        paper = _PAPER.get((method, data), {}).get(32, "")
        lines.append(
            f"| {_words(method)} | {' | '.join(cells)} | {_cell(file, 32, 'codes float')} "
            f"| {paper} | {_seconds(file)} | {_commits(file)} |"
        )
    return "\n".join(lines) + "\n"


def _names(file):
    """Returns the distinct names of an entry's rows, in order."""
    rows = [row for run in file["runs"] for row in run.get("rows", [])]
    return list(dict.fromkeys(row["name"] for row in [*rows, *file["summary"]]))


def _code_lines(file, names):
    lines = []
    for name in sorted(names, key=lambda name: _rank(name, list(_CODES))):
        cells, label = [_cell(file, bits, name) for bits in _BITS], _CODES.get(name, name)
        if (length := _own_length(file, name)) is not None:
            label, cells = f"{label}, {length} bits", ["", _cell(file, 32, name), ""]
        lines.append(f"| {label} | {' | '.join(cells)} | | | | {_commits(file)} |")
    return lines


def _ablation_table(title, main, ablations):
    lines = [
        f"**{title}: what is left out, 32 bits**\n",
        "| variant | codes | real | lost by coding | seeds | commit |",
        "|---|---|---|---|---|---|",
    ]
    order = list(_METHODS)
    whole = {file["name"]: file for file in main}
    ablated = {file["name"].partition(".")[0] for file in ablations}
    files = [whole[name] for name in ablated & whole.keys()] + ablations
    files.sort(key=lambda file: (_rank(_split(file["name"])[0], order), file["name"]))
    for file in files:
        method, _, variant = file["name"].partition(".")
        words = variant.replace("_", " ") or "whole"
        label = f"{_words(_split(method)[0])}: {words}"
        seeds = sum(run["bits"] == 32 and "failed" not in run for run in file["runs"])
        lines.append(
            f"| {label} | {_cell(file, 32, 'codes')} | {_cell(file, 32, 'codes float')} "
            f"| {_lost(file)} | {seeds} | {_commits(file)} |"
        )
    return "\n".join(lines) + "\n"


def _rank(method, order):
    return order.index(method) if method in order else len(order)


def _cell(file, bits, name):
    """Returns the table cell of a row: mean and half-width, without symmetric distances."""
    rows = [
        row
        for row in file["summary"]
        if row["bits"] == bits and row["name"] == name and row["distance"] != "sqd"
    ]
    failed = [run for run in file["runs"] if run["bits"] == bits and "failed" in run]
    if not rows:
        return f"failed: {failed[0]['failed']}" if failed else ""
    (row,) = rows
    width = "" if row["half_width"] is None else f" ± {row['half_width']:.3f}"
    return f"{row['mean']:.3f}{width}" + (f" ({len(failed)} failed)" if failed else "")


def _lost(file):
    """Returns the loss by coding at 32 bits: mean and half-width of real minus coded."""
    lost = []
    for run in file["runs"]:
        if run["bits"] == 32 and "failed" not in run:
            rows = [row for row in run["rows"] if row["distance"] != "sqd"]
            values = {row["name"]: row["value"] for row in rows}
            lost.append(values["codes float"] - values["codes"])
    width = hypotheses.half_width(lost)
    return f"{np.mean(lost):z.3f}" + ("" if width is None else f" ± {width:.3f}") if lost else ""


def _own_length(file, name):
    """Returns the bits of a code whose length differs from the requested length, or None."""
    rows = [
        (run["bits"], row["bits"])
        for run in file["runs"]
        for row in run.get("rows", [])
        if row["name"] == name
    ]
    return next((length for asked, length in rows if asked != length), None)


def _seconds(file):
    seconds = [run["seconds"] for run in file["runs"] if run["bits"] == 32 and "seconds" in run]
    return f"{min(seconds):.0f} s" if seconds else ""


def _commits(file):
    return ", ".join(sorted({run["commit"] for run in file["runs"]}))
