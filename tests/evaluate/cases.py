"""Small databases in every kind of code and label, and what the metrics are by definition."""

import functools

import jax.numpy as jnp
import numpy as np

from quantjax import evaluate, metrics
from quantjax.metrics import measures
from quantjax.quantizers import BinaryCodec, Codec, FloatCodec, ProductCodec, ResidualCodec

MEASURES = {
    "p@7|ties=expected|zero=0": (measures.precision(top_k=7), False),
    "r@20|ties=expected|zero=0": (measures.recall(top_k=20), False),
    "hit@1|ties=expected|zero=0": (measures.hit_rate(top_k=1), False),
    "mrr@all|ties=expected|zero=0": (measures.reciprocal_rank(), False),
    "rprec|ties=expected|zero=0": (measures.r_precision(), False),
    "map@R|ties=expected|zero=0": (measures.average_precision_at_r(), False),
    "ndcg@10|ties=expected|zero=0": (measures.ndcg(top_k=10), True),
    "acg@10|ties=expected|zero=0": (measures.acg(top_k=10), True),
    "wap@all|ties=expected|den=capped|zero=0": (measures.wap(), True),
    "wap@9|ties=expected|den=hits|zero=0": (measures.wap(top_k=9, denominator="hits"), True),
}
"""Measures by the head of their id, and whether they are of grades."""

Q, N, D, L = 70, 301, 6, 3  # more queries than a tile holds; items that no tile divides


@functools.cache
def embeddings():
    rng = np.random.default_rng(3)
    sides = rng.normal(size=(Q, D)), rng.normal(size=(N, D))
    return tuple(side.astype(np.float32) for side in sides)


@functools.cache
def codecs() -> dict[str, tuple[Codec, str]]:
    """A codec of each kind, few bits for many ties, and the distance it is evaluated by."""
    rng = np.random.default_rng(4)
    books = jnp.asarray(rng.normal(size=(2, 8, 3)), jnp.float32)
    whole = jnp.asarray(rng.normal(size=(2, 8, D)), jnp.float32)
    return {
        "product l2": (ProductCodec(books, metric="l2"), "aqd"),
        "product ip": (ProductCodec(books, metric="ip"), "aqd"),
        "product cosine": (ProductCodec(books, metric="cosine"), "aqd"),
        "product sqd": (ProductCodec(books, metric="l2"), "sqd"),
        "residual": (ResidualCodec(whole), "aqd"),
        "binary": (BinaryCodec(D), "hamming"),
        "float": (FloatCodec(D), "float"),
    }


@functools.cache
def labels() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels of both sides, of each kind; some multi-hot rows hold none."""
    rng = np.random.default_rng(5)
    query, database = rng.integers(0, L, Q), rng.integers(0, L, N)
    several = rng.random((Q, L)) < 0.5, rng.random((N, L)) < 0.4
    return {
        "class ids": (query, database),
        "one-hot": (np.eye(L, dtype=np.uint8)[query], np.eye(L)[database]),
        "multi-hot": tuple(side.astype(np.uint8) for side in several),
    }


def measured(codec_name="product ip", label_kind="multi-hot", *, rows=None, moved=False, **options):
    """`evaluate` on one of the cases; the database's rows in the order given, or one relabelled."""
    codec, distance = codecs()[codec_name]
    queries, database = embeddings()
    query_labels, database_labels = labels()[label_kind]
    if moved:
        database_labels = np.append((database_labels[:1] + 1) % L, database_labels[1:], axis=0)
    rows = np.arange(N) if rows is None else rows
    codes = evaluate.encode(codec, database)[rows]
    return evaluate.evaluate(
        codec,
        queries,
        codes,
        query_labels,
        database_labels[rows],
        **{"name": "toy", "distance": distance, **options},
    )


def shared_labels(label_kind):
    """Grades [Q, N] by definition."""
    query, database = labels()[label_kind]
    if query.ndim == 1:
        return (query[:, None] == database).astype(int)
    return query.astype(int) @ database.astype(int).T


def by_definition(codec_name, label_kind, **options):
    """AP of each query [Q] with all distances at once: worst, expected, best."""
    counts = all_counts(codec_name, label_kind, num_grades=2)
    return [
        metrics.average_precision_from_counts(counts, ties=ties, **options)
        for ties in ("worst", "expected", "best")
    ]


@functools.cache
def all_counts(codec_name, label_kind, *, num_grades):
    """Items (or items of each grade, for more than two) and relevant items by distance."""
    codec, distance = codecs()[codec_name]
    queries, database = embeddings()
    codes = codec.encode(jnp.asarray(database))
    asked = codec.decode(codec.encode(queries)) if distance == "sqd" else queries
    distances = np.asarray(codec.distances(jnp.asarray(asked), codes))
    counts = np.zeros((Q, N, num_grades), int)
    grades = np.minimum(shared_labels(label_kind), num_grades - 1)
    for query, grade in enumerate(grades):
        _, level = np.unique(distances[query], return_inverse=True)
        if distance == "hamming":
            level = distances[query]
        np.add.at(counts[query], (level, grade), 1)
    return np.stack([counts.sum(-1), counts[..., 1]], axis=-1) if num_grades == 2 else counts
