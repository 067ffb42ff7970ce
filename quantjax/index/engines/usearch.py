"""Writes binary codes as a USearch index, an HNSW graph over bits, and measures its recall."""

import pathlib

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError, load_package
from quantjax.index.artefact import Index
from quantjax.index.engines import items, self_test
from quantjax.quantizers import BinaryCodec
from quantjax.run import files


def export(index: Index, path: pathlib.Path) -> self_test.Exported:
    """Writes binary codes as an index of USearch, with the ids as keys.

    USearch's graph misses some of the nearest items: the recall tells how many of a sample it
    finds. Names as ids go beside the file, one a line; the keys are then row numbers.

    Args:
      index: Codes of a BinaryCodec.
      path: File to be written.

    Returns:
      The files, an example and the recall.

    Raises:
      ValueError: if the codes are not binary, an id is negative, or USearch gives an item another
        distance. Nothing is written then.
      ModuleNotFoundError: if usearch is not installed.
    """
    self_test.check_takes("usearch", index, (BinaryCodec,), "hamming")
    items.check_names(index)
    numbered = items.row_numbered(index)
    if numbered.ids.min() < 0:
        raise InputError(f"usearch takes ids of at least 0, got {numbered.ids.min()}")
    usearch = load_package("usearch.index", extra="usearch", purpose="export to usearch")
    graph = usearch.Index(ndim=8 * index.codec.num_bytes, metric="hamming", dtype="b1")
    graph.add(numbered.ids.astype(np.uint64), np.ascontiguousarray(index.codes))

    def search(queries, top_k):
        # USearch gives a single query's answer another shape, so queries go one by one.
        codes = np.asarray(index.codec.encode(jnp.asarray(queries)))
        found = [graph.search(code, top_k) for code in codes]
        return [x.distances for x in found], [x.keys.astype(np.int64) for x in found]

    recall = self_test.check_distances("usearch", numbered, search)
    with files.replacing(path) as scratch:
        graph.save(str(scratch))
    written = (path, *items.write_names(index, path))
    usage = f"usearch.index.Index.restore({str(path)!r}).search(codec.encode(queries), 10)"
    return self_test.Exported(written, usage, recall)
