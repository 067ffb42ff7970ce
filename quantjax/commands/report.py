"""Implements `quantjax report`: draws a run's page again, or compares runs."""

import argparse
from pathlib import Path

from quantjax import report
from quantjax.errors import InputError
from quantjax.run import console
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("workdirs", metavar="WORKDIR", type=user_path, nargs="+", help="folder that a run has left")
    text = "page of the comparison; comparison.html where absent"
    add("-o", "--out", metavar="FILE", type=user_path, help=text)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    workdirs = arguments.workdirs
    if len(workdirs) > 1:
        out = arguments.out or Path("comparison.html")
        console.say(f"comparison: {report.compare(workdirs, out)}")
        return
    if arguments.out is not None:
        raise InputError("--out is for a comparison; one run's page is its own report.html")
    console.say(f"report: {report.write(workdirs[0])}")
