"""`quantjax COMMAND` converts photos before an experiment and draws reports after it."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

from quantjax.errors import is_one_line
from quantjax.run import encodings, output

COMMANDS = {
    "encode": "codes the photos of a folder, or vectors, by a run's encoder, and writes an index",
    "evaluate": "measures the search of an index: mAP by classes, recall of true neighbours",
    "export": "writes an index for FAISS, LanceDB, DuckDB and other search engines",
    "export-encoder": "writes the encoder of a run anew, as after an update of jax",
    "fit": "fits a codec to vectors, or learns one with labels, and leaves an encoder of vectors",
    "info": "describes an index, an encoder or a run",
    "merge": "joins the parts that encode --shard=I/N wrote to an index",
    "plan": "finds the cheapest codes of vectors that reach a recall, by measuring a sample",
    "records": "converts a folder of photos into ArrayRecord files, for data.from_records",
    "report": "draws a run's report.html again; of several runs, one page that compares them",
    "runs": "lists runs with their status, settings and results, and compares two",
    "search": "finds the items of an index that are nearest to photos or vectors",
    "serve": "serves a page on this machine that searches an index by image",
    "train": "learns codes of a folder of photos, and leaves an encoder",
}
"""What each command does; `quantjax/commands/NAME.py`, hyphens as underscores, implements it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command of the `quantjax` command line.

    Prints one line and exits with 2 for wrong usage, and with 1 for bad input or a disk that
    cannot be written. Exits with 130 on Ctrl-C. Any other exception is a fault of the program and
    keeps its traceback. A reader that goes, as `head` does, ends nothing.

    Args:
      argv: Command line without the program's name; the process's own when None.
    """
    encodings.prepare(restart=argv is None)
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with output.surviving():
            arguments = _parser(argv[:1]).parse_args(argv)
            status = _run(arguments)
    except Exception as error:
        if not is_one_line(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if status:
        sys.exit(status)


def _run(arguments):
    if not getattr(arguments, "json", False):
        return arguments.run(arguments)
    from quantjax.run import console  # here, as most commands need it no earlier

    with console.on_stderr():
        return arguments.run(arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message}; --help lists all\n")


def _parser(chosen):
    """Returns the parser of all commands; only the chosen command has its arguments."""
    parser = _Parser(prog="quantjax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        # Imported only when chosen, so that no command waits for the imports of another.
        if name in chosen:
            module = importlib.import_module(f"quantjax.commands.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    main()
