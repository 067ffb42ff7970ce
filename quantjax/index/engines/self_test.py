"""Checks that an engine can hold an index, and that its answers are those of the codec."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.index.artefact import Index
from quantjax.quantizers import FloatCodec

_QUERIES = 32
_TOP_K = 10
_TILE = 1 << 16  # rows whose distances are computed at once
_TOLERANCE = 1e-5  # of the largest distance: engines add float32 numbers in another order

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Searches queries [Q, D] for k neighbours: distances [Q, k], smaller is nearer, and ids [Q, k]."""


class Exported(NamedTuple):
    """Holds the result of an export.

    Attributes:
      files: Files or folders that were written.
      usage: Example that searches them, to be printed.
      recall: Share of the nearest items that the engine found in the self-test; None if the engine
        was not run.
    """

    files: tuple[pathlib.Path, ...]
    usage: str
    recall: float | None = None


def check_takes(engine: str, index: Index, codecs: tuple[type, ...], *metrics: str) -> None:
    """Raises ValueError if an engine cannot hold an index.

    Args:
      engine: Name of the engine for the message.
      index: Index to be exported.
      codecs: Codecs whose codes the engine searches.
      *metrics: Metrics that the engine computes on such codes.
    """
    codec = index.codec
    if not isinstance(codec, codecs):
        due = " or ".join(kind.__name__ for kind in codecs)
        raise InputError(
            f"{engine} takes the codes of {due}, got {type(codec).__name__}; export to npz instead"
        )
    if codec.metric not in metrics:
        raise InputError(
            f"{engine} ranks such codes by {' or '.join(metrics)}, got metric {codec.metric!r}; "
            "fit the codec with another metric, or export to npz"
        )
    if not len(index.codes):
        raise InputError("the index has no items; add some before an export")


def check_exact(engine: str, index: Index, search: Search) -> float:
    """Raises ValueError if an engine misses a nearest item or measures it another distance.

    Args:
      engine: Name of the engine for the message.
      index: Index that the engine holds.
      search: The engine's search.

    Returns:
      1.0, the recall.
    """
    answers, own, nearest = _compare(index, search)
    _check_equal(f"{engine} finds other items than the codec, farther", own, nearest)
    _check_equal(f"{engine} gives items another distance than the codec, other", answers, own)
    return _share(own, nearest)


def check_distances(engine: str, index: Index, search: Search) -> float:
    """Raises ValueError if an engine gives an item another distance than the codec.

    Args:
      engine: Name of the engine for the message.
      index: Index that the engine holds.
      search: The engine's search.

    Returns:
      The recall, see `recall`.
    """
    answers, own, nearest = _compare(index, search)
    _check_equal(f"{engine} gives items another distance than the codec, other", answers, own)
    return _share(own, nearest)


def recall(index: Index, search: Search) -> float:
    """Returns the share of the nearest items that an engine finds; ties count by distance.

    Args:
      index: Index that the engine holds.
      search: The engine's search.
    """
    _, own, nearest = _compare(index, search)
    return _share(own, nearest)


def _share(own, nearest):
    return float(np.mean(own <= nearest[:, -1:] + _tolerance(nearest)))


def _tolerance(distances):
    return _TOLERANCE * max(1.0, np.abs(distances[np.isfinite(distances)]).max(initial=0))


def _check_equal(claim, found, due):
    gap = np.abs(found - due).max()
    if not gap <= _tolerance(due):
        raise InputError(
            f"{claim} by {gap:.2g}; nothing was written, report it with the engine's version"
        )


def _compare(index, search):
    """Returns the engine's distances, the codec's for the same ids, and the nearest, [Q, k] each.

    All are in rising order.
    """
    queries, top_k = sample_queries(index), min(_TOP_K, len(index.codes))
    answers, ids = (np.asarray(x) for x in search(queries, top_k))
    wanted = set(ids.ravel().tolist())
    # An id that the engine made up stays at infinity.
    own, nearest = np.full(ids.shape, np.inf), np.zeros((len(queries), 0))
    for start in range(0, len(index.codes), _TILE):
        tile_ids = index.ids[start : start + _TILE]
        distances = distances_to(index, queries, np.arange(start, start + len(tile_ids)))
        nearest = np.sort(np.concatenate([nearest, distances], axis=1), axis=1)[:, :top_k]
        hits = [row for row, name in enumerate(tile_ids.tolist()) if name in wanted]
        is_hit = tile_ids[hits] == ids[:, :, None]  # [Q, k, hits]
        found = np.where(is_hit, distances[:, None, hits], np.inf)
        own = np.minimum(own, found.min(axis=2, initial=np.inf))
    return np.sort(answers), np.sort(own), nearest


def sample_queries(index: Index) -> np.ndarray:
    """Returns queries [32, D], each the mean of two reconstructions.

    Args:
      index: Index with at least one item.
    """
    rows = np.linspace(0, len(index.codes) - 1, 2 * _QUERIES).astype(int)
    x = reconstructions(index, rows)
    return ((x[:_QUERIES] + x[_QUERIES:]) / 2).astype(np.float32)


def reconstructions(index: Index, rows: np.ndarray) -> np.ndarray:
    """Decodes some items of an index, and adds the centroid of their inverted list.

    Args:
      index: Index to decode.
      rows: Row numbers [R].

    Returns:
      Embeddings [R, D] float32.
    """
    x = np.asarray(index.codec.decode(jnp.asarray(index.codes[rows])))
    if index.lists is None:
        return x
    # Rows are stored list by list: list l is rows starts[l] to starts[l + 1].
    numbers = np.searchsorted(np.asarray(index.lists.starts), rows, side="right") - 1
    return x + np.asarray(index.lists.centroids, np.float32)[numbers]


def distances_to(index: Index, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the codec's distances [Q, R] to some items.

    Args:
      index: Index whose items are measured.
      queries: Embeddings [Q, D].
      rows: Row numbers [R].
    """
    codec, codes = index.codec, jnp.asarray(index.codes[rows])
    if index.lists is not None:
        # A code of a list is a residual: the codec alone measures no distance to the item.
        codec = FloatCodec(queries.shape[1], codec.metric)
        codes = codec.encode(jnp.asarray(reconstructions(index, rows)))
    return np.asarray(codec.distances(jnp.asarray(queries), codes), np.float64)
