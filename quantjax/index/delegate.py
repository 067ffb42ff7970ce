"""Hands searches to an installed FAISS, and orders what it finds as our own search does."""

import importlib
import importlib.util
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from quantjax.errors import InputError
from quantjax.index.artefact import Index
from quantjax.index.lists import InvertedLists, plan_probes
from quantjax.index.shares import Found


class Delegate(NamedTuple):
    """Holds a FAISS index of an index's rows, and what its queries need.

    Attributes:
      engine: A faiss.Index or faiss.IndexBinary whose ids are row numbers.
      index: The index, its lists about their middle.
      middle: Mean of the lists' centroids, [D]; None without lists.
    """

    engine: Any
    index: Index
    middle: np.ndarray | None


def check_engine(index: Index, mesh: Mesh | None, engine: str) -> None:
    """Raises ValueError if `engine` is no engine, or faiss is asked for devices of a mesh."""
    if engine not in ("auto", "own", "faiss"):
        raise InputError(f"engine must be auto, own or faiss, got {engine!r}")
    if mesh is not None and (engine == "faiss" or index.lists is not None):
        which = "engine faiss" if engine == "faiss" else "a search of inverted lists"
        raise InputError(f"{which} takes no mesh; leave mesh out, or take an index without lists")


def serves(index: Index, *, is_whole: bool) -> bool:
    """Returns whether FAISS is installed and measured faster than our own search.

    Args:
      index: The items.
      is_whole: Whether all items are searched.
    """
    # A FAISS index is kept for read-only codes alone; to build it takes longer than a search.
    if index.lists is None or not is_whole or index.codes.flags.writeable:
        return False
    return jax.default_backend() == "cpu" and _is_installed()


def _is_installed():
    # Looked for and not imported, which takes a third of a second.
    return importlib.util.find_spec("faiss") is not None


def put_delegate(index: Index) -> Delegate:
    """Copies an index into a FAISS index of row numbers.

    Raises:
      ValueError: if no FAISS index ranks the codes as the codec does.
      ModuleNotFoundError: if faiss is not installed.
    """
    engines = importlib.import_module("quantjax.index.engines.faiss")
    middle, index = None, index._replace(ids=np.arange(len(index.codes)))
    if index.lists is not None:
        # Far from the origin FAISS's terms would cancel, and lose the digits of distances.
        centroids = np.asarray(index.lists.centroids, np.float32)
        middle = centroids.mean(0)
        index = index._replace(lists=InvertedLists(centroids - middle, index.lists.starts))
    engine = engines.to_faiss(index)
    if index.codec.metric == "hamming":
        # By counting: of equal distances the first rows are kept, where a heap keeps any.
        engine.use_heap = False
    return Delegate(engine, index, middle)


def nearest_by_faiss(
    delegate: Delegate, queries: np.ndarray, top_k: int, num_probes: int | None
) -> Found:
    """Finds the nearest items as our own search does, but for the rounding of distances.

    Rows may differ from ours where distances differ by less than 1e-5 of the query's largest.

    Args:
      delegate: The items.
      queries: [Q, D].
      top_k: k, at most the number of items.
      num_probes: Lists to scan for each query; all when None.

    Returns:
      Distances [Q, k] float32 and rows [Q, k] int64; equal distances are ordered by row.
    """
    engine, index, middle = delegate
    if middle is None:
        engines = importlib.import_module("quantjax.index.engines.faiss")
        distances, rows = engines.search(engine, index.codec, queries, top_k)
    else:
        distances, rows = _nearest_in_lists(engine, index, queries - middle, top_k, num_probes)
    distances = np.asarray(distances, np.float32)
    # Sums of rounded terms may end below zero.
    if index.codec.metric == "l2":
        distances = np.maximum(distances, 0)
    # FAISS orders equal distances as its heap left them.
    order = np.lexsort((rows, distances))
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def _nearest_in_lists(engine, index, queries, top_k, num_probes):
    """Searches the lists that our own search probes, which rounding must not change."""
    faiss = importlib.import_module("faiss")
    ivf = faiss.extract_index_ivf(engine)
    centroids, starts = index.lists
    gaps = np.square(queries).sum(1)[:, None] + np.square(centroids).sum(1)
    gaps = np.maximum(gaps - 2 * queries @ centroids.T, 0)
    lists = plan_probes(gaps, starts, top_k, num_probes or len(centroids))
    # The inner index lies behind the rotation that `to_faiss` put before it.
    if index.codec.rotation is not None:
        queries = queries @ np.asarray(index.codec.rotation)
    gaps = np.where(lists < 0, 0, np.take_along_axis(gaps, lists, 1))
    # The number of columns is due here; lists of number -1 are skipped.
    ivf.nprobe = lists.shape[1]
    queries, gaps = (np.ascontiguousarray(x, np.float32) for x in (queries, gaps))
    return ivf.search_preassigned(queries, top_k, lists, gaps)
