"""Implements `quantjax search`: finds the items of an index that are nearest to queries."""

import argparse
import json
import time

import numpy as np

from quantjax import index as indexing
from quantjax.data.decoding import SUFFIXES
from quantjax.data.vectors import read_vectors
from quantjax.errors import InputError, MissingFileError
from quantjax.run import compile_cache, console
from quantjax.run.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("index", metavar="INDEX", type=user_path, help="folder of an index")
    text = "a photo, or a file of vectors where the index is one of vectors"
    add("queries", metavar="QUERY", type=user_path, nargs="+", help=text)
    add("-k", metavar="N", type=int, default=10, help="items to find for each query; 10 by default")
    text = "lists to scan in an index of inverted lists; the index's own number where absent"
    add("--num_probes", metavar="N", type=int, help=text)
    text = "candidates to order anew by their kept vectors; no re-ranking where absent"
    add("--rerank", metavar="N", type=int, help=text)
    add("--symmetric", action="store_true", help="quantize the queries too (SQD instead of AQD)")
    add("--filter", metavar="CLASS", help="search among the items of this class alone")
    add("--json", action="store_true", help="print the result as a JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    # Half of the time to a first answer would be spent in compiling the same search again.
    compile_cache.keep_programs()
    folder = arguments.index
    index = indexing.load(folder)
    allowed = None if arguments.filter is None else indexing.class_mask(index, arguments.filter)
    start = time.perf_counter()
    names, queries = _embedded(index, folder, arguments.queries)
    encoded = time.perf_counter()
    found = indexing.search(
        index,
        queries,
        top_k=arguments.k,
        symmetric=arguments.symmetric,
        allowed=allowed,
        num_probes=arguments.num_probes,
        rerank=arguments.rerank,
    )
    searched = time.perf_counter()
    answers = [
        {
            "query": name,
            "neighbours": [
                {"rank": rank, "distance": distance, "id": item}
                for rank, (distance, item) in enumerate(zip(*pairs, strict=True), start=1)
            ],
        }
        for name, *pairs in zip(names, found.distances.tolist(), found.ids.tolist(), strict=True)
    ]
    encode_ms, search_ms = 1000 * (encoded - start), 1000 * (searched - encoded)
    if arguments.json:
        print(json.dumps({"answers": answers, "encode_ms": encode_ms, "search_ms": search_ms}))
        return
    for answer in answers:
        console.say(f"{answer['query']}\nrank    distance  id")
        for item in answer["neighbours"]:
            console.say(f"{item['rank']:4}  {item['distance']:10.6g}  {item['id']}")
        console.say("")
    console.say(f"encoded in {encode_ms:.0f} ms, searched in {search_ms:.0f} ms")


def _embedded(index, folder, paths):
    """Returns the names of the queries and their embeddings [Q, D]."""
    encoder = indexing.load_encoder(folder) if index.manifest.get("encoder") else None
    if encoder is not None and encoder.input == "photos":
        for path in paths:
            if not path.is_file():
                raise MissingFileError(f"no file {path}; a query is a photo")
        return [str(path) for path in paths], encoder.embed_query(paths)
    photos = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if photos:
        raise InputError(
            f"{folder} has no encoder of photos such as {photos[0]}; search with a file of vectors"
        )
    files = [read_vectors(path) for path in paths]
    names = [f"{path}:{row}" for path, x in zip(paths, files, strict=True) for row in range(len(x))]
    queries = np.concatenate(files)
    return names, queries if encoder is None else encoder.embed_query(queries)
