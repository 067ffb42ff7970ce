"""Implements `quantjax merge`: joins the parts of `quantjax encode --shard=I/N` to an index."""

import argparse
import json

from quantjax.commands.encode import FAILED
from quantjax.index import parts
from quantjax.run import console
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add(
        "parts",
        metavar="PARTS",
        nargs="+",
        type=user_path,
        help="folder of parts or of one part",
    )
    add("-o", "--out", metavar="INDEX", type=user_path, required=True, help="folder of the index")
    add("--json", action="store_true", help="print one JSON object in place of lines")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command with its parsed arguments; returns its exit status."""
    manifest = parts.merge(arguments.parts, arguments.out)
    about = {name: manifest[name] for name in ("count", "bits", "failures")}
    if arguments.json:
        print(json.dumps({"index": str(arguments.out), **about}))
    else:
        skipped = f", {len(about['failures']):,} could not be read" if about["failures"] else ""
        console.say(
            f"{about['count']:,} codes of {about['bits']} bits are in {arguments.out}{skipped}"
        )
    return FAILED if about["failures"] else 0
