"""Implements `quantjax export-encoder`: writes the encoder of a run anew."""

import argparse
import json

from quantjax import index, train
from quantjax.run import console, workdirs
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add(
        "workdir",
        metavar="RUN",
        type=user_path,
        help="folder of a run, with its checkpoints",
    )
    add("--json", action="store_true", help="print one JSON object: encoder and digest")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    workdir = arguments.workdir
    experiment = train.open_run(workdir)
    with workdirs.held(workdir):
        state = train.restore(experiment, workdir)
        folder = train.save_encoder(experiment, state, workdir / "encoder").parent
    if arguments.json:
        print(json.dumps({"encoder": str(folder), "digest": index.load_encoder(folder).digest}))
    else:
        console.say(f"encoder: {folder}")
