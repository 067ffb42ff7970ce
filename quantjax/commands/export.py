"""Implements `quantjax export`: writes an index for another search engine."""

import argparse
import functools
import json

from quantjax import index
from quantjax.errors import InputError
from quantjax.index.engines import duckdb, faiss, files, lancedb, postgres, usearch
from quantjax.run import console
from quantjax.run.paths import user_path

# The modules are light: each imports its package when it writes.
ENGINES = {
    "faiss": faiss.export,
    "lancedb": lancedb.export,
    "duckdb": duckdb.export,
    "usearch": usearch.export,
    "postgres": postgres.export,
    "npz": files.export_npz,
    "opensearch": files.export_opensearch,
    "elasticsearch": files.export_elasticsearch,
    "qdrant": files.export_qdrant,
    "cuvs": files.export_cuvs,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("index", metavar="INDEX", type=user_path, help="folder of the index")
    add("--to", metavar="ENGINE", choices=ENGINES, required=True, help=", ".join(ENGINES))
    text = "file or folder to be written"
    add("-o", "--out", metavar="OUT", type=user_path, required=True, help=text)
    text = "with --to=faiss, 16 codewords: IndexPQFastScan, faster, with rounded distances"
    add("--fast_scan", action="store_true", help=text)
    add("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    export = ENGINES[arguments.to]
    if arguments.fast_scan:
        if arguments.to != "faiss":
            raise InputError(f"--fast_scan is for --to=faiss, got --to={arguments.to}")
        export = functools.partial(faiss.export, fast_scan=True)
    folder, out = arguments.index, arguments.out
    found = index.load(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    exported = export(found, out)
    if arguments.json:
        result = {
            "engine": arguments.to,
            "count": len(found.codes),
            "bits": found.codec.bits,
            "files": [str(path) for path in exported.files],
            "recall": exported.recall,
            "usage": exported.usage,
        }
        print(json.dumps(result))
        return
    written = ", ".join(map(str, exported.files))
    console.say(f"{len(found.codes):,} codes of {found.codec.bits} bits are in {written}")
    if exported.recall is not None:
        console.say(f"recall against the codec's own ranking, 32 queries: {exported.recall:.1%}")
    console.say(exported.usage)
