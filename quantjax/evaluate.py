"""From embeddings and codes to numbers: tie-exact mean average precision with its bounds.

Items of equal code are one item with a count: they get one distance, so that their tie is exact
and neither storage order nor tile size can move the number. Counts are integers; the closed form
is summed in float64 on the host.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import embedding, metrics
from quantjax.data.protocols import Splits
from quantjax.methods.base import Batch, Method
from quantjax.quantizers import Codec, FloatCodec, product

_QUERIES = 64  # rows of a tile of distances
_ITEMS = 65_536  # rows that are encoded at once


class Result(NamedTuple):
    """One number and all that says what it is.

    Attributes:
      name: What was evaluated.
      metric: Metric id, see `metrics.metric_id`.
      value: Mean over queries of the average precision expected over the order of ties.
      worst: The same with the worst order of ties.
      best: The same with the best.
      chance: What a random ranking is expected to get.
      bits: Code length.
      num_bytes: Bytes stored per item.
      distance: "aqd" real query against code, "sqd" code against code, "float" no code at all.
      num_queries: Queries, all of them in the mean.
      num_database: Items searched.
      zero_queries: Queries without a relevant item; each counts as 0.
      distinct_codes: Different codes among the database's items.
    """

    name: str
    metric: str
    value: float
    worst: float
    best: float
    chance: float
    bits: int
    num_bytes: int
    distance: str
    num_queries: int
    num_database: int
    zero_queries: int
    distinct_codes: int


def encode(codec: Codec, x: np.ndarray) -> np.ndarray:
    """Encodes embeddings in tiles.

    Args:
      codec: Any codec.
      x: Embeddings [N, D].

    Returns:
      Codes [N, num_bytes] uint8 on the host.
    """
    encode_tile = jax.jit(lambda tile: codec.encode(tile))
    tiles = [encode_tile(x[i : i + _ITEMS]) for i in range(0, len(x), _ITEMS)]
    return np.concatenate([np.asarray(tile) for tile in tiles])


def evaluate(
    codec: Codec,
    queries: np.ndarray,
    codes: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    name: str,
    distance: str,
    top_k: int | None = None,
    denominator: str = "capped",
) -> Result:
    """Measures mean average precision of queries against a coded database.

    Args:
      codec: Measures the distances.
      queries: Embeddings [Q, D].
      codes: Codes of the database, [N, num_bytes] uint8.
      query_labels: Multi-hot labels [Q, L].
      database_labels: Multi-hot labels [N, L]; an item is relevant that shares a label.
      name: What is evaluated.
      distance: "aqd", or "sqd" to quantize the queries as well, or "float" for `FloatCodec`.
      top_k: Cut of the ranking; None ranks the whole database.
      denominator: "hits", "capped" or "all", see `metrics.average_precision`.

    Returns:
      The number with its bounds.

    Raises:
      ValueError: if lengths do not agree, the database is empty, or the distance is another.
    """
    metric = metrics.metric_id(top_k=top_k, denominator=denominator, distance=distance)
    _check(queries, codes, query_labels, database_labels)
    if distance == "sqd":
        queries = np.asarray(codec.decode(codec.encode(jnp.asarray(queries))))
    counts_of = _counter(codec, codes, database_labels)
    bounds, relevant = [], []
    for i in range(0, len(queries), _QUERIES):
        counts = counts_of(queries[i : i + _QUERIES], query_labels[i : i + _QUERIES])
        relevant.append(counts[..., 1].sum(1))
        bounds.append(
            metrics.average_precision_bounds(counts, top_k=top_k, denominator=denominator)
        )
    worst, value, best = (np.concatenate(parts).mean() for parts in zip(*bounds, strict=True))
    num_relevant = np.concatenate(relevant)
    chance = metrics.chance(num_relevant, len(codes), top_k=top_k, denominator=denominator)
    return Result(
        name=name,
        metric=metric,
        value=float(value),
        worst=float(worst),
        best=float(best),
        chance=float(np.mean(chance)),
        bits=codec.bits,
        num_bytes=codec.num_bytes,
        distance=distance,
        num_queries=len(queries),
        num_database=len(codes),
        zero_queries=int(np.sum(num_relevant == 0)),
        distinct_codes=len(np.unique(_as_scalars(codes))),
    )


class Retrieval(NamedTuple):
    """A method, measured.

    Attributes:
      results: Rows of the table.
      codec: The method's codec.
      codes: Codes of the database, [N, num_bytes] uint8, in the order of `splits.database`.
    """

    results: list[Result]
    codec: Codec
    codes: np.ndarray


def evaluate_method(
    method: Method,
    params: Any,
    state: Any,
    splits: Splits,
    *,
    preprocess: Callable[[Batch], Batch],
    mesh: Mesh,
    name: str,
    top_k: int | None = None,
) -> Retrieval:
    """Embeds and codes a split, and measures what quantization costs.

    Args:
      method: What was trained, or not yet.
      params: Its params.
      state: Its state, with codebooks.
      splits: Queries and database; validation queries, if any, get a row of their own.
      preprocess: `batch -> batch` on device.
      mesh: From `parallel.data_mesh`.
      name: What is evaluated; "NAME float" is the unquantized embedding, "NAME validation" the
        validation queries against the database without them.
      top_k: Cut of the ranking; None ranks the whole database.

    Returns:
      Rows: asymmetric, symmetric and float distances, then validation; codec and codes.

    Raises:
      ValueError: if the codebooks do not exist yet.
    """
    codec = method.codec(params, state)

    def embedded(side, rows):
        return embedding.embed(
            side, params, state, splits.source, rows, preprocess=preprocess, mesh=mesh
        )

    labels = splits.source.labels
    queries = embedded(method.embed_query, splits.query)
    database = embedded(method.embed, splits.database)
    codes = encode(codec, database)
    metric = codec.metric if codec.metric in product.METRICS else "cosine"  # signs: by their angle
    plain = FloatCodec(database.shape[1], metric=metric)
    rows = [
        (codec, queries, codes, splits.query, splits.database, name, "aqd"),
        (codec, queries, codes, splits.query, splits.database, name, "sqd"),
        (
            plain,
            queries,
            encode(plain, database),
            splits.query,
            splits.database,
            f"{name} float",
            "float",
        ),
    ]
    if len(splits.validation):
        kept = np.isin(splits.database, splits.validation_database)
        validation = embedded(method.embed_query, splits.validation)
        rows.append(
            (
                codec,
                validation,
                codes[kept],
                splits.validation,
                splits.database[kept],
                f"{name} validation",
                "aqd",
            )
        )
    results = [
        evaluate(
            each, x, stored, labels[asked], labels[held], name=title, distance=kind, top_k=top_k
        )
        for each, x, stored, asked, held, title, kind in rows
    ]
    return Retrieval(results, codec, codes)


def _counter(codec, codes, database_labels) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns (queries, labels) -> counts [Q, levels, 2], a level for every distance."""
    _, first, inverse, multiplicity = np.unique(
        _as_scalars(codes), return_index=True, return_inverse=True, return_counts=True
    )
    by_code = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(multiplicity)[:-1]])
    labels = np.asarray(database_labels, np.float32)[by_code].T
    distinct = jnp.asarray(codes[first])
    distances_of = jax.jit(lambda queries, distinct: codec.distances(queries, distinct))

    def counts_of(queries, query_labels):
        shared = np.asarray(query_labels, np.float32) @ labels > 0.5
        relevant = np.add.reduceat(shared, starts, axis=1, dtype=np.int64)
        rows = np.pad(queries, ((0, _QUERIES - len(queries)), (0, 0)))  # one shape, one compile
        distances = np.asarray(distances_of(rows, distinct))[: len(queries)]
        return _group(distances, np.broadcast_to(multiplicity, relevant.shape), relevant)

    return counts_of


def _group(distances, items, relevant):
    """Adds up the counts [Q, U] of equal distances, nearest first: [Q, levels, 2]."""
    if np.isnan(distances).any():
        raise ValueError(f"distances of query {np.isnan(distances).any(1).argmax()} hold NaN")
    order = np.argsort(distances, axis=1)
    ranked, items, relevant = (
        np.take_along_axis(part, order, axis=1) for part in (distances, items, relevant)
    )
    begins = np.ones(order.shape, bool)
    begins[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    items, relevant = _add_up(begins, items, relevant)
    # Neighbouring levels without a relevant item contribute nothing, at any cut: they are one.
    begins = np.ones(items.shape, bool)
    begins[:, 1:] = (relevant[:, 1:] > 0) | (relevant[:, :-1] > 0)
    return np.stack(_add_up(begins, items, relevant), axis=-1)


def _add_up(begins, *parts):
    """Sums runs [Q, U] that begin where told, to [Q, largest number of runs]; zeros behind."""
    run = np.cumsum(begins, axis=1) - 1
    width = int(run[:, -1].max()) + 1
    cells = (run + width * np.arange(len(run))[:, None]).ravel()
    sums = [np.bincount(cells, part.ravel(), minlength=width * len(run)) for part in parts]
    return [part.reshape(len(run), width).astype(np.int64) for part in sums]


def _as_scalars(codes):
    """Views every code as one value that sorts."""
    codes = np.ascontiguousarray(codes)
    return codes.view(np.dtype((np.void, codes.shape[1]))).ravel()


def _check(queries, codes, query_labels, database_labels):
    if len(codes) == 0 or len(queries) == 0:
        raise ValueError(f"nothing to search: {len(queries)} queries, {len(codes)} items")
    for what, rows, labels in (
        ("query_labels", queries, query_labels),
        ("database_labels", codes, database_labels),
    ):
        if labels.ndim != 2 or len(labels) != len(rows):
            raise ValueError(f"{what} must have shape ({len(rows)}, L), got {labels.shape}")
    if query_labels.shape[1] != database_labels.shape[1]:
        raise ValueError(
            f"query_labels have {query_labels.shape[1]} classes, "
            f"database_labels {database_labels.shape[1]}"
        )
