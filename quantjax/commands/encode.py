"""Implements `quantjax encode`: codes the photos of a folder, or vectors, and writes an index."""

import argparse
import contextlib
import json
import time

from quantjax.data.decoding import pixel_limit
from quantjax.errors import InputError
from quantjax.index import encoding, ray_parts
from quantjax.run import console
from quantjax.run.paths import user_path

FAILED = 3
"""Exit status if items could not be read; the index has all others."""

_SHOWN = 20  # unreadable items that the console names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("encoder", metavar="RUN", type=user_path, help="a run, an encoder or an index with one")
    text = "folder of photos, .txt list of paths, 'pattern', URL that fsspec reads, or vectors"
    add("source", metavar="INPUT", help=text)
    add("-o", "--out", metavar="INDEX", type=user_path, required=True, help="folder of the index")
    ways = parser.add_mutually_exclusive_group()
    text = "encode part I, 0 to N - 1, into the folder INDEX; `quantjax merge` joins the parts"
    ways.add_argument("--shard", metavar="I/N", type=_shard, help=text)
    text = "encode on the Ray cluster of RAY_ADDRESS, or on all cores or GPUs of this machine"
    ways.add_argument("--ray", action="store_true", help=text)
    add("--vectors", action="store_true", help="keep embeddings too, as float16, to re-rank by")
    text = "sort the items into N inverted lists, of which a search scans --num_probes"
    add("--num_lists", metavar="N", type=int, help=text)
    text = "pixels that a photo may have; Pillow's limit of 89,478,485 where absent"
    add("--max_pixels", metavar="N", type=int, help=text)
    add("--json", action="store_true", help="print one JSON object; lines go to standard error")


def _shard(text):
    """Parses --shard=I/N into two numbers."""
    number, slash, total = text.partition("/")
    if not (slash and number.isdigit() and total.isdigit() and int(number) < int(total)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 to N - 1, got {text}")
    return int(number), int(total)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command with its parsed arguments; returns its exit status."""
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if arguments.max_pixels is not None:
            stack.enter_context(pixel_limit(arguments.max_pixels))
        progress = stack.enter_context(console.counter("items"))
        found = (_encode_shard if arguments.shard else _encode)(arguments, progress)
    found["seconds"] = round(time.perf_counter() - began, 1)
    if arguments.json:
        print(json.dumps(found))
    else:
        _report(found)
    # The index is there all the same: a script decides whether that is enough.
    return FAILED if found["failures"] else 0


def _encode(arguments, progress):
    manifest = encoding.encode(
        arguments.encoder,
        arguments.source,
        arguments.out,
        keep_vectors=arguments.vectors,
        num_lists=arguments.num_lists,
        progress=progress,
        items_per_part=ray_parts.ITEMS_PER_PART if arguments.ray else None,
        encode_parts=ray_parts.encode_parts if arguments.ray else encoding.encode_here,
    )
    about = {name: manifest[name] for name in ("count", "bits", "failures")}
    return {"index": str(arguments.out), **about}


def _encode_shard(arguments, progress):
    number, num_parts = arguments.shard
    if arguments.num_lists is not None:
        raise InputError("--num_lists does not go with --shard: lists are made of all items")
    job = encoding.make_job(
        arguments.encoder,
        arguments.source,
        arguments.out,
        num_parts=num_parts,
        keep_vectors=arguments.vectors,
    )
    part = encoding.encode_part(job, number, progress=progress)
    about = {"part": number, "parts": num_parts, "folder": str(arguments.out)}
    return {**about, "count": part.num_codes, "failures": part.failures}


def _report(found):
    failures = found["failures"]
    for name, reason in failures[:_SHOWN]:
        console.say(f"cannot read {name}: {reason}")
    if len(failures) > _SHOWN:
        console.say(f"and {len(failures) - _SHOWN:,} more, which --json names")
    skipped = f", {len(failures):,} could not be read" if failures else ""
    if "index" in found:
        what = f"{found['count']:,} codes of {found['bits']} bits are in {found['index']}"
    else:
        what = (
            f"part {found['part']} of {found['parts']} with {found['count']:,} codes is in "
            f"{found['folder']}; when all are there: quantjax merge {found['folder']} -o INDEX"
        )
    console.say(f"{what}{skipped}; {found['seconds']} s")
