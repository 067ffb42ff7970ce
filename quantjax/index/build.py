"""Builds an index of inverted lists from vectors: coarse k-means and codes of the residuals."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import check_shape
from quantjax.errors import InputError
from quantjax.index.artefact import Index
from quantjax.index.ids import Ids, id_tensors, read_ids
from quantjax.index.lists import InvertedLists
from quantjax.quantizers import ProductCodec, kmeans, product

_ROWS = 1 << 16  # of a chunk that is assigned and encoded at once
_TRAINING = 64  # rows for each centroid and codeword, the most


def build_lists(
    key: jax.Array,
    vectors: np.ndarray,
    *,
    num_lists: int,
    num_codebooks: int,
    num_codewords: int = 256,
    num_iterations: int = 25,
    ids: Ids | None = None,
) -> Index:
    """Builds an index of inverted lists: vectors sorted by their nearest centroid.

    A code is that of a vector's residual, the vector minus its list's centroid, so `search` alone
    knows distances; they are squared Euclid. At most 64 rows for each centroid and codeword are
    read for training.

    Args:
      key: Random key, consumed.
      vectors: [N, D]; a memory map is read a chunk at a time.
      num_lists: L.
      num_codebooks: M; it must divide D.
      num_codewords: K, a power of two.
      num_iterations: Of either k-means.
      ids: The items' numbers or names, in the order of `vectors`; 0 to N - 1 when None.

    Returns:
      An index in memory, its items in the order of the lists.

    Raises:
      ValueError: if sizes do not fit, or a vector of the training rows holds NaN.

    Reference:
      Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 33(1), 2011.
    """
    check_shape("vectors", vectors, "N", "D")
    if not 1 <= num_lists <= len(vectors):
        raise InputError(f"num_lists must be from 1 to {len(vectors)} vectors, got {num_lists}")
    ids = read_ids(id_tensors(ids, len(vectors)))
    centroids, codec = _train(key, vectors, num_lists, num_codebooks, num_codewords, num_iterations)
    order, codes, starts = _assign(vectors, centroids, codec)
    return Index(codec, codes, ids[order], lists=InvertedLists(centroids, starts))


def _train(key, vectors, num_lists, num_codebooks, num_codewords, num_iterations):
    """Fits coarse centroids [L, D], and a codec to the residuals that they leave."""
    sampled, start, fitted = jax.random.split(key, 3)
    most = min(len(vectors), _TRAINING * max(num_lists, num_codewords))
    rows = np.sort(jax.random.choice(sampled, len(vectors), (most,), replace=False))
    x = jnp.asarray(vectors[rows], jnp.float32)
    mask = jnp.ones(len(x), bool)
    centroids = kmeans.plus_plus(start, x, num_centroids=num_lists, mask=mask)
    centroids = kmeans.lloyd(centroids, x, mask=mask, num_iterations=num_iterations)
    codebooks = product.fit_codebooks(
        fitted,
        x - centroids[kmeans.assign(x, centroids)],
        num_codebooks=num_codebooks,
        num_codewords=num_codewords,
        num_iterations=num_iterations,
    )
    return np.asarray(centroids), ProductCodec(codebooks)


def _assign(vectors, centroids, codec):
    """Returns each item's row in `vectors` [N], codes and starts, in order of the lists."""
    there, parts = jnp.asarray(centroids), []
    for start in range(0, len(vectors), _ROWS):
        x = jnp.asarray(vectors[start : start + _ROWS], jnp.float32)
        numbers = kmeans.assign(x, there)
        parts.append((np.asarray(numbers), np.asarray(codec.encode(x - there[numbers]))))
    numbers, codes = map(np.concatenate, zip(*parts, strict=True))
    # Stable, so that items of a list keep the order of their rows.
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(centroids) + 1))
    return order, codes[order], starts
