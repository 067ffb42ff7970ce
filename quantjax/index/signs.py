"""Finds the nearest binary codes of one or two queries, by counting bits on the host.

A scan by tables shares each load among eight queries or more; for fewer, whole words are faster.
"""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index.finish import first
from quantjax.index.shares import Found
from quantjax.quantizers import BinaryCodec

MOST = 2  # queries
_ROWS = 1 << 15  # of a chunk, whose words stay in cache
_GROUP = 64  # rows of which the least distance bounds the k-th
_SPARE = 8  # groups for each of the k nearest, at least


def serves(codec: object, num_queries: int) -> bool:
    """Returns whether `nearest_signs` takes a search: few queries, codes of whole words, a CPU."""
    whole = isinstance(codec, BinaryCodec) and codec.num_bytes % 8 == 0
    return whole and num_queries <= MOST and jax.default_backend() == "cpu"


def nearest_signs(codec: BinaryCodec, codes: np.ndarray, queries: np.ndarray, top_k: int) -> Found:
    """Returns distances [Q, k] float32 and rows [Q, k] int64; equal distances by row."""
    words = np.ascontiguousarray(codes).view(np.uint64)
    asked = np.asarray(codec.encode(jnp.asarray(queries))).view(np.uint64)
    found = [_nearest(words, query, top_k) for query in asked]
    distances, rows = map(np.stack, zip(*found, strict=True))
    return distances.astype(np.float32), rows


def _nearest(words, query, top_k):
    distances = np.empty(len(words), np.uint8 if words.shape[1] < 4 else np.uint16)
    for start in range(0, len(words), _ROWS):
        rows = slice(start, start + _ROWS)
        counts = np.bitwise_count(words[rows] ^ query)
        distances[rows] = counts[:, 0] if len(query) == 1 else counts.sum(1, dtype=np.uint16)
    groups = len(words) // _GROUP
    if groups < _SPARE * top_k:
        rows = first(distances, top_k)
        return distances[rows], rows
    # Groups of rows far from each other, so that their least is one operation on whole vectors.
    least = distances[: groups * _GROUP].reshape(_GROUP, groups).min(0)
    candidates = np.flatnonzero(distances <= np.partition(least, top_k - 1)[top_k - 1])
    rows = candidates[first(distances[candidates], top_k)]
    return distances[rows], rows
