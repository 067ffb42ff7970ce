"""Builds an index of inverted lists from vectors: coarse k-means and codes of the residuals."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import check_finite, check_shape
from quantjax.errors import InputError
from quantjax.index import columns, versions
from quantjax.index.artefact import Index, load
from quantjax.index.ids import Ids, id_tensors, read_ids
from quantjax.index.lists import InvertedLists
from quantjax.quantizers import Codec, ProductCodec, kmeans, product

_ROWS = 1 << 16  # of a chunk that is assigned and encoded at once
_TRAINING = 64  # rows for each centroid and codeword, the most


def build_lists(
    key: jax.Array,
    vectors: np.ndarray,
    *,
    num_lists: int,
    num_codebooks: int,
    num_codewords: int = 256,
    num_iterations: int = 12,
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
    centroids, codec = _train(
        key,
        vectors,
        num_lists,
        num_codebooks=num_codebooks,
        num_codewords=num_codewords,
        num_iterations=num_iterations,
    )
    order, codes, starts = _assign(vectors, centroids, codec)
    return Index(codec, codes, ids[order], lists=InvertedLists(centroids, starts))


def list_index(
    folder: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    num_lists: int,
    keep_vectors: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Builds inverted lists of the kept vectors of a saved index, and saves them with its encoder.

    Args:
      folder: Folder of an index with vectors, of product codes compared by squared Euclid. The
        codes of the lists have as many codebooks and codewords as its codes.
      out: Folder of the new index; an index that it holds is replaced.
      num_lists: L.
      keep_vectors: Whether the new index keeps the vectors too, for re-ranking.
      seed: Seed of both k-means.

    Returns:
      Manifest of the new index.

    Raises:
      ValueError: if the index has no vectors or other codes, or there are more lists than items.
      OSError: if the disk is full; an older index in `out` is then as it was.
    """
    index = load(folder)
    vectors, labels = index.vectors, index.labels
    num_codebooks, num_codewords = listed_sizes(index.codec)
    if vectors is None:
        raise InputError(f"{folder} keeps no vectors, of which lists are made; encode --vectors")
    listed = build_lists(
        jax.random.key(seed),
        vectors,
        num_lists=num_lists,
        num_codebooks=num_codebooks,
        num_codewords=num_codewords,
    )
    order, lists = listed.ids, listed.lists
    assert lists is not None
    table = columns.make(
        listed.codes,
        index.ids[order],
        vectors[order] if keep_vectors else None,
        None if labels is None else labels[order],
    )
    tensors = {versions.LISTS + name: x for name, x in lists._asdict().items()}
    about = {name: index.manifest[name] for name in versions.DEFAULTS}
    encoder = folder if index.manifest["encoder"] else None
    versions.write(out, listed.codec, {**table, **tensors}, about, encoder=encoder)
    return versions.read_manifest(pathlib.Path(out))


def listed_sizes(codec: Codec) -> tuple[int, int]:
    """Returns M and K of codes of residuals that are like a codec's codes of vectors.

    Raises:
      ValueError: if the codec is no product codec that squared Euclid compares, or has a rotation.
    """
    if not isinstance(codec, ProductCodec) or codec.rotation is not None or codec.metric != "l2":
        raise InputError(
            "lists need product codes without a rotation, compared by l2, as of quantjax fit "
            f"--codec=pq; got {codec!r}"
        )
    return codec.codebooks.shape[0], codec.codebooks.shape[1]


def _train(key, vectors, num_lists, **sizes):
    """Fits coarse centroids [L, D], and a codec to the residuals that they leave."""
    sampled, fitted = jax.random.split(key)
    most = min(len(vectors), _TRAINING * max(num_lists, sizes["num_codewords"]))
    rows = np.asarray(_sampled_rows(sampled, len(vectors), most))
    x = np.asarray(vectors[rows], np.float32)
    check_finite("vectors", x)
    centroids, codebooks = _fit(fitted, x, num_lists, **sizes)
    return np.asarray(centroids), ProductCodec(codebooks)


# Compiled whole: one by one, the operations of a build compile longer than they run.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _sampled_rows(key, count, most):
    return jnp.sort(jax.random.choice(key, count, (most,), replace=False))


@functools.partial(
    jax.jit, static_argnames=("num_lists", "num_codebooks", "num_codewords", "num_iterations")
)
def _fit(key, x, num_lists, *, num_codebooks, num_codewords, num_iterations):
    start, fitted = jax.random.split(key)
    mask = jnp.ones(len(x), bool)
    centroids = kmeans.plus_plus(start, x, num_centroids=num_lists, mask=mask)
    centroids = kmeans.fit(centroids, x, mask=mask, num_iterations=num_iterations)
    codebooks = product.fit_codebooks(
        fitted,
        x - centroids[kmeans.assign(x, centroids)],
        num_codebooks=num_codebooks,
        num_codewords=num_codewords,
        num_iterations=num_iterations,
    )
    return centroids, codebooks


def _assign(vectors, centroids, codec):
    """Returns each item's row in `vectors` [N], codes and starts, in order of the lists."""
    there, parts = jnp.asarray(centroids), []
    size = min(_ROWS, len(vectors))
    for start in range(0, len(vectors), size):
        x = np.asarray(vectors[start : start + size], np.float32)
        # Padded, so that the last chunk needs no program of its own.
        found = _encode(codec, there, np.pad(x, ((0, size - len(x)), (0, 0))))
        parts.append([np.asarray(each)[: len(x)] for each in found])
    numbers, codes = map(np.concatenate, zip(*parts, strict=True))
    # Stable, so that items of a list keep the order of their rows.
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(centroids) + 1))
    return order, codes[order], starts


@jax.jit
def _encode(codec, centroids, x):
    """Returns the list of each vector, and the code of its residual."""
    numbers = kmeans.assign(x, centroids)
    return numbers, codec.encode(x - centroids[numbers])
