"""Implements `quantjax evaluate`: measures the search of an index, by classes and by neighbours."""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantjax import evaluate as evaluation
from quantjax import index as indexing
from quantjax.data.photo_files import classes_of, photos_below
from quantjax.data.vectors import read_vectors
from quantjax.errors import InputError
from quantjax.quantizers import FloatCodec, product
from quantjax.run import compile_cache, console
from quantjax.run.paths import user_path

_CUTS = (1, 10, 100)


class _Queries(NamedTuple):
    """Holds the queries before they are embedded, which takes long.

    Attributes:
      inputs: Paths of Q photos, or vectors [Q, F].
      class_ids: Numbers of the index's classes [Q], -1 for a class that it has not; None for
        vectors.
      rows: Rows of the index that are the very same photos, [Q], -1 for other photos.
    """

    inputs: list[Path] | np.ndarray
    class_ids: np.ndarray | None
    rows: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    add("index", metavar="INDEX", type=user_path, help="folder of an index")
    text = "folder of class folders of photos, or a file of vectors if the index is one of vectors"
    add("queries", metavar="QUERIES", type=user_path, help=text)
    text = "row numbers of each query's nearest neighbours, nearest first, [Q, T]: .ivecs or .npy"
    add("--true", metavar="FILE", type=user_path, help=text)
    text = "values of k of recall@k; 1,10,100 where absent"
    add("-k", metavar="N,...", dest="cuts", type=_cuts, help=text)
    text = "vectors of the items, whose exact neighbours are the truth; kept ones where absent"
    add("--vectors", metavar="FILE", type=user_path, help=text)
    text = "for recall: lists to scan in an index of inverted lists; all where absent"
    add("--num_probes", metavar="N", type=int, help=text)
    text = "for recall: candidates to order anew by kept vectors; no re-ranking where absent"
    add("--rerank", metavar="N", type=int, help=text)
    add("--symmetric", action="store_true", help="quantize the queries too (SQD instead of AQD)")
    add("--json", action="store_true", help="print one JSON object in place of tables")


def _cuts(text):
    """Parses -k=1,10,100 into numbers."""
    numbers = text.split(",")
    if not all(number.isdigit() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"must be numbers of 1 or more, such as 1,10; got {text}")
    return sorted({int(number) for number in numbers})


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    compile_cache.keep_programs()
    folder = arguments.index
    index = indexing.load(folder)
    encoder = indexing.load_encoder(folder) if index.manifest.get("encoder") else None
    queries = _read_queries(arguments.queries, index, encoder)
    by_class = _unmeasured(index, queries)
    has_truth = any(each is not None for each in (arguments.true, arguments.vectors, index.vectors))
    # Both reasons, before the queries are embedded.
    if by_class and not has_truth:
        raise InputError(
            f"no mAP, since {by_class}; no recall without true neighbours: give --true or "
            "--vectors, or encode with --vectors"
        )
    embedded = queries.inputs if encoder is None else encoder.embed_query(queries.inputs)
    results = [] if by_class else [_by_class(arguments, index, queries, embedded)]
    recalls = _recalls(arguments, index, encoder, embedded) if has_truth else {}
    _report(arguments, index, queries, by_class, results, recalls)


def _read_queries(path, index, encoder):
    """Lists the photos of a folder, or reads vectors."""
    takes_photos = encoder is not None and encoder.input == "photos"
    if takes_photos != path.is_dir():
        due = "a folder of class folders" if takes_photos else "a file of vectors"
        raise InputError(f"queries must be {due}, since the index is of such, got {path}")
    if not takes_photos:
        x = read_vectors(path)
        return _Queries(x, None, np.full(len(x), -1))
    names, notes = photos_below(path)
    if not names:
        raise InputError("; ".join((f"{path} has no photo", *notes)))
    classes, class_ids = classes_of(names)
    # The index has numbers of its own for the classes, and may lack some.
    known = {name: number for number, name in enumerate(index.manifest.get("classes", ()))}
    numbers = np.array([*(known.get(name, -1) for name in classes), -1], np.int64)
    paths = [path / name for name in names]
    return _Queries(paths, numbers[class_ids], _rows_of(index, paths))


def _rows_of(index, paths):
    """Returns the row of the index that is the same file, for each path; -1 for other files."""
    root = index.manifest.get("root")
    # Photos of an URL lie nowhere on this machine.
    if root is None or "://" in root:
        return np.full(len(paths), -1)
    root = os.path.realpath(root)
    ids = {os.path.join(root, str(name)): row for row, name in enumerate(index.ids)}
    return np.array([ids.get(os.path.realpath(path), -1) for path in paths])


def _unmeasured(index, queries):
    """Returns why classes cannot measure the search, or None if they can."""
    if queries.class_ids is None:
        return "queries are vectors, without classes"
    if index.labels is None:
        return "the index has no classes"
    # Inverted lists order the items by search alone, and leave most of them out.
    if index.lists is not None:
        return "inverted lists give no ranking of all items"
    if not (queries.class_ids >= 0).any():
        return "no query is of a class of the index"
    return None


def _by_class(arguments, index, queries, embedded):
    """Measures mAP over the whole database; an item of the query's class is relevant."""
    labels, asked = np.asarray(index.labels), queries.class_ids
    codes = np.asarray(index.codes)
    is_whole = np.array_equal(np.sort(queries.rows), np.arange(len(labels))) and np.array_equal(
        labels[queries.rows], asked
    )
    # A set that searches itself: the evaluator takes each query out of its own ranking.
    if is_whole and (asked >= 0).all():
        codes, labels = codes[queries.rows], asked
    else:
        is_whole = False
        # A class that the index has not would count as a miss of the search.
        embedded, asked = embedded[asked >= 0], asked[asked >= 0]
        # Items without a class are relevant to nobody, so they make a class that nobody asks for.
        labels = np.where(labels < 0, len(index.manifest["classes"]), labels)
    return evaluation.evaluate(
        index.codec,
        embedded,
        codes,
        asked,
        labels,
        name="codes",
        distance=_distance(index.codec, arguments.symmetric),
        leave_self_out=is_whole,
    )


def _distance(codec, symmetric):
    if codec.metric == "hamming":
        return "hamming"
    if isinstance(codec, FloatCodec):
        return "float"
    return "sqd" if symmetric else "aqd"


def _recalls(arguments, index, encoder, embedded):
    """Measures the search against true neighbours."""
    count = len(index.codes)
    # An index of fewer items has no hundred neighbours, which only a user may ask for.
    cuts = arguments.cuts or [k for k in _CUTS if k <= count]
    return evaluation.recall(
        index,
        embedded,
        _true_ids(arguments, index, encoder, embedded, min(max(cuts), count)),
        at=cuts,
        symmetric=arguments.symmetric,
        num_probes=arguments.num_probes,
        rerank=arguments.rerank,
    )


def _true_ids(arguments, index, encoder, embedded, most):
    """Returns the ids of each query's nearest neighbours, [Q, T]."""
    ids = np.asarray(index.ids)
    are_rows = ids.dtype.kind in "iu"
    if arguments.true is not None:
        rows = np.asarray(read_vectors(arguments.true))
        limit = ids.max() if are_rows else len(ids) - 1
        if len(rows) != len(embedded) or rows.dtype.kind not in "iu":
            raise InputError(
                f"{arguments.true} must have integers for each of {len(embedded)} queries, got "
                f"{rows.dtype} {rows.shape}"
            )
        if not 0 <= rows.min() <= rows.max() <= limit:
            raise InputError(
                f"{arguments.true} must have rows 0 to {limit}, got {rows.min()} to {rows.max()}"
            )
        return rows if are_rows else ids[rows]
    x = index.vectors
    if arguments.vectors is not None:
        x = _vectors(arguments.vectors, ids if are_rows else np.arange(len(ids)), encoder)
    metric = index.codec.metric
    # Codes that are compared by bits stand for vectors that are compared by Euclid, as re-ranking.
    metric = metric if metric in product.METRICS else "l2"
    return ids[indexing.true_neighbours(x, embedded, most, metric=metric)]


def _vectors(path, rows, encoder):
    """Returns the vectors [N, D] of the index's rows, from a file that may have more."""
    x = read_vectors(path)
    if rows.max() >= len(x):
        raise InputError(f"{path} must have vectors of {rows.max() + 1} items, got {len(x)}")
    # A mapped file that is whole stays on the disk.
    if len(x) != len(rows) or not np.array_equal(rows, np.arange(len(x))):
        x = x[rows]
    # Queries went through the encoder too.
    return encoder.embed(x) if encoder is not None and encoder.input == "vectors" else x


def _report(arguments, index, queries, by_class, results, recalls):
    """Prints what was measured, and what to know about it."""
    own = int((queries.rows >= 0).sum())
    found = {
        "queries": len(queries.rows),
        "database": len(index.codes),
        "queries_in_index": own,
        "queries_of_other_classes": int((np.asarray(queries.class_ids) < 0).sum())
        if results
        else 0,
    }
    if arguments.json:
        rows = [row for each in results for row in each.rows()]
        print(json.dumps({**found, "results": rows, "recalls": recalls, "unmeasured": by_class}))
        return
    if results:
        console.table(results)
    if found["queries_of_other_classes"]:
        console.say(f"{found['queries_of_other_classes']} queries of other classes are not in mAP")
    if own and not (results and "self=out" in results[0].metric):
        console.say(f"{own} of {found['queries']} queries are in the index, and find themselves")
    elif own:
        console.say("queries are the items of the index; none is in its own ranking for mAP")
    if recalls:
        console.say(f"recall of {found['queries']:,} queries in {found['database']:,} items:")
    for name, value in recalls.items():
        console.say(f"{name:>16}  {value:.4f}")
    if by_class and queries.class_ids is not None:
        console.say(f"no mAP, since {by_class}")
