"""Answers the page's searches: by a new photo, or by an item of the index."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from quantjax import index as indexing
from quantjax.errors import QuantjaxError
from quantjax.index import Index
from quantjax.quantizers import FloatCodec
from quantjax.serve.pictures import photo_path

MOST = 120
"""Largest number of neighbours of an answer."""

_CANDIDATES = 200  # of a re-ranking


class Collection(NamedTuple):
    """Holds an index with the parts that a page needs beside it.

    Attributes:
      name: Name that the page shows.
      index: The items.
      encoder: From `index.load_encoder`, or None: then only items of the index can be searched by.
      root: Folder, resolved, that ids are relative to; None shows no pictures.
    """

    name: str
    index: Index
    encoder: Any = None
    root: Path | None = None


class Answer(NamedTuple):
    """Holds the neighbours of one query.

    Attributes:
      rows: Rows of the items, nearest first, [k] int64.
      distances: Their distances, [k].
      source: Origin of the query's embedding: "photo", "vector" (kept) or "code" (decoded).
      encode_ms: Milliseconds that the encoder took, None without an encoder.
      search_ms: Milliseconds of the search.
    """

    rows: np.ndarray
    distances: np.ndarray
    source: str
    encode_ms: float | None
    search_ms: float


def modes(collection: Collection) -> dict[str, dict[str, Any]]:
    """Returns the kinds of distance that an index allows: name -> options of `index.search`."""
    index = collection.index
    metric = index.codec.metric
    # Queries are coded here as items are, so that AQD and SQD are one.
    if metric in ("hamming", "class"):
        found: dict[str, dict[str, Any]] = {metric: {}}
    elif isinstance(index.codec, FloatCodec):
        found = {"float": {}}
    else:
        found = {"aqd": {}, "sqd": {"symmetric": True}}
    return found if index.vectors is None else {**found, "rerank": {"rerank": _CANDIDATES}}


def search_photo(
    collection: Collection, photo: Path, *, mode: str, count: int, among: str | None = None
) -> Answer:
    """Finds the items nearest to a photo that is not in the index.

    Args:
      collection: With an encoder.
      photo: File of the photo.
      mode: Key of `modes`.
      count: Number of neighbours, at most `MOST`.
      among: Class to search among; all items when None.

    Raises:
      ValueError: if the photo is unreadable, or the class unknown.
    """
    embedding, encode_ms = _embedded(collection, photo)
    rows, distances, search_ms = _nearest(collection, embedding, mode, count, among)
    return Answer(rows, distances, "photo", encode_ms, search_ms)


def search_item(
    collection: Collection, row: int, *, mode: str, count: int, among: str | None = None
) -> Answer:
    """Finds the items nearest to an item of the index, without the item itself.

    The query is the item's photo, encoded; without an encoder or photo, the kept vector or the
    decoded code.

    Args:
      collection: The items.
      row: Row of the item.
      mode: Key of `modes`.
      count: Number of neighbours, at most `MOST`.
      among: Class to search among; all items when None.

    Raises:
      ValueError: if the class is unknown.
    """
    embedding, source, encode_ms = _embedding_of_item(collection, row)
    # One more than asked for: the item is nearest to itself, though not always the first.
    rows, distances, search_ms = _nearest(collection, embedding, mode, count + 1, among)
    others = np.flatnonzero(rows != row)[:count]
    return Answer(rows[others], distances[others], source, encode_ms, search_ms)


def class_of(collection: Collection, row: int) -> str | None:
    """Returns the name of an item's class, or None if it is unknown."""
    index = collection.index
    if index.labels is None or index.labels[row] < 0:
        return None
    return index.manifest["classes"][int(index.labels[row])]


def random_rows(collection: Collection, count: int, among: str | None = None) -> np.ndarray:
    """Draws rows of different items, of one class or of all, [n] int64 with n at most `count`."""
    index, draw = collection.index, np.random.default_rng().choice
    if among is None:
        return draw(len(index.codes), min(count, len(index.codes)), replace=False)
    rows = np.flatnonzero(indexing.class_mask(index, among))
    return draw(rows, min(count, len(rows)), replace=False)


def class_counts(collection: Collection) -> dict[str, int]:
    """Returns the number of items of each class, by name in alphabetical order."""
    index = collection.index
    if index.labels is None:
        return {}
    names = index.manifest["classes"]
    known = np.asarray(index.labels)
    counts = np.bincount(known[known >= 0], minlength=len(names))
    return dict(sorted(zip(names, counts.tolist(), strict=True)))


def warm_up(collection: Collection) -> None:
    """Runs each kind of search once, so that no visitor waits for a compilation."""
    if not len(collection.index.codes):
        return
    for mode in modes(collection):
        search_item(collection, 0, mode=mode, count=1)


def _embedded(collection, photo):
    start = time.perf_counter()
    embedding = np.asarray(collection.encoder.embed_query([photo]))
    return embedding, 1000 * (time.perf_counter() - start)


def _embedding_of_item(collection, row):
    index = collection.index
    path = photo_path(collection.root, index.ids[row])
    if collection.encoder is not None and path is not None:
        try:
            embedding, encode_ms = _embedded(collection, path)
            return embedding, "photo", encode_ms
        except QuantjaxError:
            pass  # the photo was damaged since; the index still knows the item
    if index.vectors is not None:
        return np.float32(index.vectors[row : row + 1]), "vector", None
    return np.asarray(index.codec.decode(index.codes[row : row + 1])), "code", None


def _nearest(collection, embedding, mode, count, among):
    index = collection.index
    start = time.perf_counter()
    allowed = None if among is None else indexing.class_mask(index, among)
    available = len(index.codes) if allowed is None else int(allowed.sum())
    if not available:
        return np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0
    # Always the most that are ever shown: one compiled program serves every count.
    top_k = min(MOST + 1, available)
    options = modes(collection)[mode]
    found = indexing.search(index, embedding, top_k=top_k, allowed=allowed, **options)
    search_ms = 1000 * (time.perf_counter() - start)
    return found.rows[0, :count], found.distances[0, :count], search_ms
