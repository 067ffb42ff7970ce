"""Implements `quantjax serve`: a page that searches an index by image."""

import argparse
import json
from pathlib import Path

from quantjax import index as indexing
from quantjax.data.decoding import pixel_limit
from quantjax.data.photo_files import existing_folder
from quantjax.run import compile_cache, console
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("index", metavar="INDEX", type=user_path, help="folder of an index")
    text = "folder that the ids are file names in; the folder that was encoded where absent"
    add("--images", metavar="ROOT", type=user_path, help=text)
    text = "name or address to serve at; 127.0.0.1, which only this machine reaches, where absent"
    add("--host", default="127.0.0.1", help=text)
    add("--port", metavar="N", type=int, default=8000, help="0 for a free one; 8000 where absent")
    text = "size of an image that is searched by; 20,000,000 where absent"
    add("--max_upload_bytes", metavar="N", type=int, default=20_000_000, help=text)
    text = "pixels that an image may have, so that no small file fills the memory; 50,000,000"
    add("--max_pixels", metavar="N", type=int, default=50_000_000, help=f"{text} where absent")
    add("--json", action="store_true", help="print the address as a JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments, until Ctrl-C."""
    # Not before: a missing package is an error of this command alone.
    from quantjax import serve

    compile_cache.keep_programs()
    collection, notes = _collection(arguments)
    with (
        pixel_limit(arguments.max_pixels),
        serve.listen(arguments.host, arguments.port) as port,
    ):
        serve.warm_up(collection)
        app = serve.make_app(
            collection, hosts=[arguments.host], max_upload_bytes=arguments.max_upload_bytes
        )

        def announce():
            if arguments.json:
                print(json.dumps({"url": serve.url(port)}), flush=True)
            else:
                console.say("; ".join((f"{serve.url(port)} (Ctrl-C ends)", *notes)))

        serve.serve(app, port, announce)


def _collection(arguments):
    """Returns the index with its encoder and folder of photos, and notes on what is missing."""
    from quantjax import serve

    folder, notes = arguments.index, []
    index = indexing.load(folder)
    encoder = indexing.load_encoder(folder) if index.manifest.get("encoder") else None
    if encoder is not None and encoder.photos is None:
        encoder = None
    if encoder is None:
        notes.append("the index has no encoder of photos, so that searches start from its items")
    root = index.manifest.get("root")
    if arguments.images is not None:
        root = existing_folder(arguments.images)
    elif root is None or not Path(root).is_dir():
        notes.append(f"no pictures, as {root or 'the root'} is no folder here; name it by --images")
        root = None
    root = None if root is None else Path(root).resolve()
    return serve.Collection(folder.resolve().name, index, encoder, root), notes
