"""Implements `quantjax info`: describes an index, an encoder or a run."""

import argparse
import json
from typing import Any

from quantjax import index
from quantjax.errors import MissingFileError
from quantjax.run import console, files
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("path", metavar="PATH", type=user_path, help="folder of an index, an encoder or a run")
    add("--json", action="store_true", help="print one JSON object in place of lines")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    folder = arguments.path
    # A run may have codes, an encoder and results, an index the first two.
    found = _codes(folder) | _encoder(folder) | _results(folder)
    if not found:
        raise MissingFileError(f"{folder} has no codes, encoder or results; name a folder that has")
    # With old versions of an index, which take room until they are deleted.
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    found["bytes on disk"] = sum(sizes)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.say(f"{name}: {shown:,}" if type(value) is int else f"{name}: {shown}")


def _codes(folder) -> dict[str, Any]:
    """Describes the codes of an index or a run; empty if there are none."""
    if not (folder / "codes.json").is_file():
        return {}
    # Mapped, so that a large index is described as fast as a small one.
    found = index.load(folder)
    return {
        "codes": len(found.codes),
        "codec": repr(found.codec),
        "bits": found.codec.bits,
        "bytes of a code": found.codec.num_bytes,
        "metric": found.codec.metric,
    }


def _encoder(folder) -> dict[str, Any]:
    """Describes an encoder, or that of an index or a run; empty if there is none."""
    if not any((place / "encoder.json").is_file() for place in (folder, folder / "encoder")):
        return {}
    found = index.load_encoder(folder)
    return {
        "encoder": found.digest[:8],
        "input": found.input,
        "shape of a row": [*found.row_shape],
        "codec": repr(found.codec),
        "bits": found.codec.bits,
        "bytes of a code": found.codec.num_bytes,
        "metric": found.codec.metric,
        "classes": [*found.classes],
    }


def _results(folder) -> dict[str, Any]:
    """Returns the value of each result of a run, by its name and metric."""
    path = folder / "results.json"
    if not path.is_file():
        return {}
    with files.reading(f"cannot read {path}", "run it again"):
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {f"{row['name']} {row['metric']}": round(row["value"], 4) for row in rows}
