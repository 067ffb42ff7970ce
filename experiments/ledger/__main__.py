"""The ledger's command: runs experiments, chooses their settings, renders the tables.

    python -m experiments.ledger run NAME ... --bits 16 32 48 --seeds 0 1 2
    python -m experiments.ledger tune NAME ... --bits 32
    python -m experiments.ledger table

NAME is METHOD_DATA, such as dqn_mnist, or the path of another experiment file (my/file.py, or
my/file.py.DATA if it has several data sets); .ABLATION may follow it. `run` trains for every length
and seed, measures on the queries, and writes experiments/ledger/results/NAME.json; what is there
already is done again only with --again. `tune` tries the settings of
`experiments.ledger.hypotheses.SETTINGS`, or of the experiment's `trials`, by validation queries
alone, and `run` takes the best of them from then on. `table` renders the tables of docs/results.md
and docs/which_method.md, and the figures of the latter, from the files. With --results FOLDER, the
files are in that folder, and `table` prints.
"""

import argparse
import ast
import pathlib
import sys
from collections.abc import Sequence

import jax

from quantjax.errors import InputError, is_one_line
from quantjax.run.paths import user_path

from . import field_tables, runs, tables, tuning

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "results.md"
_FIELD_PAGE = _PAGE.with_name("which_method.md")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line: `run`, `tune` or `table`.

    Args:
      argv: Arguments after the program's name; those of the process when None.
    """
    options = _parser().parse_args(argv)
    try:
        # Only the ledger's own files belong into docs/results.md, which a wheel has not.
        own = options.results == runs.RESULTS and _PAGE.exists()
        if options.command == "table" and not own:
            print(tables.render(options.results), field_tables.render(options.results), sep="\n")
        elif options.command == "table":
            tables.update(_PAGE, tables.render(runs.RESULTS), check=options.check)
            tables.update(_FIELD_PAGE, field_tables.render(runs.RESULTS), check=options.check)
            if not options.check:
                from . import field_figures  # needs matplotlib, which the tables do not

                field_figures.write(runs.RESULTS, _PAGE.with_name("pictures"))
        else:
            _run_or_tune(options)
    except Exception as error:
        if not is_one_line(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _parser():
    """Returns the parser of the three commands."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run entries and write their files")
    running.add_argument("--bits", nargs="+", type=int, default=[32])
    running.add_argument("--seeds", nargs="+", type=int, default=[0])
    running.add_argument("--workdir", type=user_path, default=pathlib.Path("runs/ledger"))
    running.add_argument("--again", action="store_true", help="do runs anew that are there")
    trying = commands.add_parser("tune", help="choose settings by validation queries")
    trying.add_argument("--bits", type=int, default=32)
    for each in (running, trying):
        each.add_argument("names", nargs="+", metavar="NAME")
        each.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    for each in (running, trying, table := commands.add_parser("table", help="render the tables")):
        each.add_argument("--results", type=user_path, default=runs.RESULTS, metavar="FOLDER")
    table.add_argument("--check", action="store_true", help="only check docs/results.md")
    return parser


def _run_or_tune(options):
    settings = dict(_setting(each) for each in options.settings)
    for name in options.names:
        if options.command == "tune":
            tuning.tune(name, settings=settings, results=options.results, bits=options.bits)
        else:
            runs.run(
                name,
                options.bits,
                options.seeds,
                workdir=options.workdir,
                settings=settings,
                results=options.results,
                again=options.again,
            )
        jax.clear_caches()  # or the programs of all entries stay in memory


def _setting(text):
    """Parses KEY=VALUE to key and value; a value that is not a Python literal stays text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set takes KEY=VALUE, got {text!r}")
    # Not by the type of the default, which is unknown for keys without one.
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


if __name__ == "__main__":
    main()
