"""Renders the tables of docs/results.md from the ledger's files.

Every file gets a row. The names below give known methods and data their order and their words;
others come after them, under their own names.
"""

import json
import pathlib
from typing import Any

import numpy as np

from quantjax.errors import InputError
from quantjax.run import files

from . import field_results, hypotheses

_BEGIN, _END = "<!-- ledger: begin -->", "<!-- ledger: end -->"
_BITS = (16, 32, 48)
_FEW = (8, 12, 16)

_DATA = {
    "cifar10_features": "CIFAR-10 (JPEG), protocol `i`, features of EfficientNet-Lite0",
    "cifar10_features_few": "CIFAR-10 (JPEG), protocol `i`, features of EfficientNet-Lite0 at 128 "
    "pixels, 16 codewords in a codebook",
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
    "hashing-baseline": "Hashing-Baseline, no labels",
    "class-id code": "class-id code",
}
_PAPER = {
    ("dqn", "cifar10_features"): {32: 0.564, 48: 0.580},
    ("dqn", "cifar10_finetuned"): {32: 0.564, 48: 0.580},
    ("dqn", "cifar10"): {32: 0.564, 48: 0.580},
}
"""Attested numbers: of CIFAR-10, AlexNet fine-tuned, 5,000 training images."""


def update(page: pathlib.Path, tables: str, *, check: bool = False) -> None:
    """Writes tables between the two marks of a page.

    Args:
      page: Markdown file that holds both marks.
      tables: Markdown, from `render` or `field_tables.render`.
      check: Whether to write nothing, and raise ValueError if the tables differ.

    Raises:
      ValueError: if a mark is missing or, when checking, the tables differ.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise InputError(f"{page.name} must have the lines {_BEGIN} and {_END}")
    due = f"{before}{_BEGIN}\n{tables}{_END}{after}"
    if check and due != text:
        raise InputError(
            f"{page.name} has other tables than the ledger's files; run "
            "python -m experiments.ledger table"
        )
    if due != text:
        files.write_text(page, due)


def render(results: pathlib.Path) -> str:
    """Returns all tables as Markdown.

    Args:
      results: Folder of the ledger's files.
    """
    files = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
        if not field_results.is_of_field(path.stem)
    ]
    groups: dict[str, list[Any]] = {data: [] for data in _DATA}
    for file in files:
        groups.setdefault(_split(file["name"])[1] or _protocol(file), []).append(file)
    parts = [_verdicts(results)]
    for data, of_data in groups.items():
        title = _DATA.get(data, data)
        main = [file for file in of_data if "." not in file["name"]]
        ablations = [file for file in of_data if "." in file["name"]]
        if data.endswith("_few"):
            parts.append(_few_table(title, of_data))
            continue
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
    lines = ["| hypothesis | found (95 % over seeds) | verdict |", "|---|---|---|"]
    any_was_run = False
    for each in hypotheses.HYPOTHESES:
        try:
            found, verdict = each.decide(hypotheses.values_of(results, each.arms, each.bits))
            any_was_run = True
        except (FileNotFoundError, KeyError, ValueError):  # an entry, a row or a seed is missing
            found, verdict = "", "not run"
        lines.append(_line(each.claim, found, verdict))
    return "\n".join(lines) + "\n" if any_was_run else ""


def _main_table(title, data, files):
    """Returns the table of a data set: a line for each method, and for each code of an entry."""
    lengths = [f"{bits} bits" for bits in _BITS]
    head = ["method", *lengths, "real, 32", "paper, 32", "time", "commit"]
    lines = [f"**{title}**\n", _line(*head), f"|{'---|' * len(head)}"]
    for file in sorted(files, key=_method_rank):
        method = _split(file["name"])[0]
        names = _names(file)
        if names and "codes" not in names:  # codes of features, no method trained
            lines += _code_lines(file, names)
            continue
        cells = [_cell(file, bits, "codes") for bits in _BITS] + [_cell(file, 32, "codes float")]
        paper = _PAPER.get((method, data), {}).get(32, "")
        lines.append(_line(_words(method), *cells, paper, _seconds(file), _commits(file)))
    return "\n".join(lines) + "\n"


def _code_lines(file, names):
    """Returns a line for each code of an entry that trains no method."""
    lines = []
    for name in sorted(names, key=lambda name: _rank(name, _CODES)):
        cells, label = [_cell(file, bits, name) for bits in _BITS], _CODES.get(name, name)
        if (length := _own_length(file, name)) is not None:
            # The same code at every requested length, so that one cell has it.
            label, cells = f"{label}, {length} bits", ["", _cell(file, 32, name), ""]
        lines.append(f"| {label} | {' | '.join(cells)} | | | | {_commits(file)} |")
    return lines


def _ablation_table(title, main, ablations):
    """Returns the table of a data set's ablations, each method's below its whole."""
    lines = [
        f"**{title}: what is left out, 32 bits**\n",
        "| variant | codes | real | lost by coding | seeds | commit |",
        "|---|---|---|---|---|---|",
    ]
    whole = {file["name"]: file for file in main}
    ablated = {file["name"].partition(".")[0] for file in ablations}
    files = [whole[name] for name in ablated & whole.keys()] + ablations
    for file in sorted(files, key=lambda file: (_method_rank(file), file["name"])):
        cells = _cell(file, 32, "codes"), _cell(file, 32, "codes float"), _lost(file)
        seeds = sum("failed" not in run for run in _runs(file))
        lines.append(_line(_variant(file), *cells, seeds, _commits(file)))
    return "\n".join(lines) + "\n"


def _few_table(title, files):
    """Returns the table of a data set of few codewords: a line for each variant, by bits."""
    names = [f"{name}{bits} bits" for name in ("", "real, ") for bits in _FEW]
    head = ["variant", *names, "seeds", "commit"]
    lines = [f"**{title}**\n", _line(*head), f"|{'---|' * len(head)}"]
    for file in sorted(files, key=lambda file: (_method_rank(file), file["name"])):
        cells = [_cell(file, bits, name) for name in ("codes", "codes float") for bits in _FEW]
        seeds = len({run["seed"] for run in file["runs"] if "failed" not in run})
        lines.append(_line(_variant(file), *cells, seeds, _commits(file)))
    return "\n".join(lines) + "\n"


def _variant(file):
    """Returns the label of a method's variant."""
    variant = file["name"].partition(".")[2].replace("_", " ") or "whole"
    return f"{_words(_split(file['name'])[0])}: {variant}"


def _line(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _method_rank(file):
    return _rank(_split(file["name"])[0], _METHODS)


def _rank(name, known):
    """Returns the place of a name among the known names; unknown names come after them."""
    return [*known, name].index(name)


def _names(file):
    """Returns the distinct names of an entry's rows, in order."""
    rows = [row for run in file["runs"] for row in run.get("rows", [])]
    return list(dict.fromkeys(row["name"] for row in [*rows, *file["summary"]]))


def _runs(file, bits=32):
    return [run for run in file["runs"] if run["bits"] == bits]


def _cell(file, bits, name):
    """Returns the table cell of a row: mean and half-width, without symmetric distances."""
    failed = [run["failed"] for run in _runs(file, bits) if "failed" in run]
    for row in file["summary"]:
        if (row["bits"], row["name"]) == (bits, name) and row["distance"] != "sqd":
            count = f" ({len(failed)} failed)" if failed else ""
            return _mean(row["mean"], row["half_width"]) + count
    return f"failed: {failed[0]}" if failed else ""


def _lost(file):
    """Returns the loss by coding at 32 bits: mean and half-width of real minus coded."""
    lost = []
    for run in _runs(file):
        rows = [row for row in run.get("rows", []) if row["distance"] != "sqd"]
        values = {row["name"]: row["value"] for row in rows}
        if rows:
            lost.append(values["codes float"] - values["codes"])
    return _mean(np.mean(lost), hypotheses.half_width(lost)) if lost else ""


def _mean(mean, half_width):
    # "z": no minus ahead of a zero.
    return f"{mean:z.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")


def _own_length(file, name):
    """Returns the bits of a code whose length differs from the requested length, or None."""
    for run in file["runs"]:
        for row in run.get("rows", []):
            if row["name"] == name and row["bits"] != run["bits"]:
                return row["bits"]
    return None


def _seconds(file):
    """Returns the time of the fastest run: others may have shared the machine."""
    seconds = [run["seconds"] for run in _runs(file) if "seconds" in run]
    return f"{min(seconds):.0f} s" if seconds else ""


def _commits(file):
    return ", ".join(sorted({run["commit"] for run in file["runs"]}))
