"""`python -m quantjax.cli COMMAND`: what is done to data before an experiment."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from quantjax import console, data
from quantjax.errors import InputError

_DOCUMENTED = (ValueError, OSError, ModuleNotFoundError)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command.

    Exits with 2 for wrong usage and 1 for bad input, after one line, and with 130 on Ctrl-C.

    Args:
      argv: Command line without the program; that of the process when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except _DOCUMENTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message}; --help lists all\n")


def _parser():
    parser = _Parser(prog="python -m quantjax.cli", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_records(commands)
    return parser


def _add_records(commands):
    about = "converts a folder of photos into ArrayRecord files, for data.from_records"
    command = commands.add_parser("records", help=about, description=about, allow_abbrev=False)
    command.add_argument("folder", metavar="FOLDER", type=Path, help="has a folder for each class")
    command.add_argument("out", metavar="OUT", type=Path, help="made here, or empty")
    command.add_argument(
        "--parts",
        metavar="NAME,...",
        help="FOLDER has these folders, such as train,test, and each of them one for each class",
    )
    command.add_argument(
        "--size",
        metavar="PX",
        type=int,
        help="store pixels of this height and width, the shorter side resized, the longer cropped "
        "(faster to read); files as they are where absent",
    )
    command.add_argument(
        "--shards",
        metavar="N",
        type=int,
        help="number of files; one for each 4,096 photos, at most 256, where absent",
    )
    command.set_defaults(run=_records)


def _records(arguments):
    folder, out = (path.expanduser() for path in (arguments.folder, arguments.out))
    if folder.resolve() in out.resolve().parents:
        raise InputError(f"{out} is in {folder}, where it would be a class; choose another folder")
    # A size, so that headers are not read to see that sizes agree; files are stored as they are.
    size = arguments.size or 1
    parts = {}
    if arguments.parts is None:
        photos = data.image_folder(folder, size=size)
    else:
        names = arguments.parts.split(",")
        photos, rows = data.image_folders(folder, names, size=size)
        parts = dict(zip(names, rows, strict=True))
    with console.counter("photos") as progress:
        data.to_records(
            photos,
            out,
            size=arguments.size,
            num_shards=arguments.shards,
            parts=parts,
            progress=progress,
        )
    console.say(f"{len(photos)} photos of {len(photos.classes)} classes are in {out}")


if __name__ == "__main__":
    main()
