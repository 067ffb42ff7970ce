"""Fits a codec to vectors without labels: PQ, OPQ, RQ, RQ with networks, or ITQ.

All take vectors [N, D] of any width and return a codec. Product codes need a width that M divides:
`vector_embedding` returns the function that pads vectors to the codec's width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.models import unit
from quantjax.quantizers import (
    BinaryCodec,
    Codec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
    additive,
    neural_training,
    packing,
    product,
    rotation,
)

METRICS = ("l2", "ip", "cosine")
# Turns of OPQ. Each decomposes a matrix [D, D], which takes minutes in all where D is large.
_TURNS, _TURNS_OF_WIDE, _WIDE = 25, 5, 512
# Of networks: measured in experiments/benchmarks/learned_codecs.py.
_EPOCHS, _BATCH, _BEAM = 30, 256, 4


def sample(x: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Returns the numbers of rows to fit a codec to: all, or a random sample, sorted.

    Args:
      x: Vectors [N, D], maybe of a mapped file, of which the sampled rows alone are read later.
      most: Largest number of rows.
      seed: Seed of the draw.
    """
    if len(x) <= most:
        return np.arange(len(x))
    # Sorted, so that a mapped file is read from front to back.
    return np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))


def pq(
    x: np.ndarray,
    *,
    bits: int,
    num_codewords: int | None = None,
    metric: str = "l2",
    seed: int = 0,
) -> ProductCodec:
    """Fits product quantization by k-means in each subspace.

    Args:
      x: Vectors [N, D].
      bits: Code length.
      num_codewords: K, a power of two whose log2 divides `bits`; when None the largest, up to 256
        and N.
      metric: "l2", "ip" or "cosine". Vectors are divided by their length for "cosine".
      seed: Seed of the k-means start.

    Raises:
      ValueError: if x are no finite vectors of 2 rows or more, or the metric is unknown.
    """
    x, sizes = _prepared(x, bits, metric, num_codewords)
    codebooks = _fit_product(jax.random.key(seed), _padded(x, sizes["num_codebooks"]), **sizes)
    return ProductCodec(codebooks, metric=metric)


def opq(
    x: np.ndarray,
    *,
    bits: int,
    num_codewords: int | None = None,
    metric: str = "l2",
    seed: int = 0,
) -> ProductCodec:
    """Fits optimized product quantization, a rotation with product codebooks; see `pq`."""
    x, sizes = _prepared(x, bits, metric, num_codewords)
    x = _padded(x, sizes["num_codebooks"])
    turns = _TURNS if x.shape[1] <= _WIDE else _TURNS_OF_WIDE
    fitted = _fit_rotated(jax.random.key(seed), x, num_iterations=turns, **sizes)
    return ProductCodec(fitted.codebooks, rotation=fitted.rotation, metric=metric)


def rq(
    x: np.ndarray,
    *,
    bits: int,
    num_codewords: int | None = None,
    metric: str = "l2",
    beam_width: int = 5,
    seed: int = 0,
) -> ResidualCodec:
    """Fits residual quantization, codebooks whose codewords add up; see `pq`.

    Vectors are encoded with a beam of `beam_width` partial sums, and codebooks fitted with one.
    """
    x, sizes = _prepared(x, bits, metric, num_codewords)
    # Where codewords are few, most sums of a wide beam are poor, and a fit to them costs 5 %.
    fitted_width = max(1, min(beam_width, sizes["num_codewords"] // 32))
    codebooks = _fit_residual(jax.random.key(seed), x, beam_width=fitted_width, **sizes)
    return ResidualCodec(codebooks, metric=metric, beam_width=beam_width)


def neural_rq(
    x: np.ndarray,
    *,
    bits: int,
    num_codewords: int | None = None,
    metric: str = "l2",
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> NeuralResidualCodec:
    """Fits residual quantization with a network for each codebook, in minutes; see `pq`.

    Args:
      x: Vectors [N, D].
      bits: Code length.
      num_codewords: K; see `pq`.
      metric: "l2", "ip" or "cosine".
      seed: Seed of the start, of the networks and of the batches.
      report: Called after each epoch with the epochs done and the epochs in all.

    Raises:
      ValueError: if x are no finite vectors of 2 rows or more, or the metric is unknown.
    """
    x, sizes = _prepared(x, bits, metric, num_codewords)
    beam_width = min(_BEAM, sizes["num_codewords"])
    search = {"beam_width": beam_width, "num_candidates": 2 * beam_width}
    networks = neural_training.fit(
        jax.random.key(seed),
        x,
        **sizes,
        **search,
        num_epochs=_EPOCHS,
        batch_size=min(_BATCH, len(x)),
        on_epoch=lambda epoch, error: report(epoch, _EPOCHS),
    )
    return NeuralResidualCodec(*networks, metric=metric, **search)


def itq(x: np.ndarray, *, bits: int, metric: str = "l2", seed: int = 0) -> BinaryCodec:
    """Fits iterative quantization, signs of a rotation about the mean; see `pq`.

    Codes are compared by Hamming distance, so "ip" raises ValueError, and so do more bits than the
    vectors have numbers.
    """
    if metric == "ip":
        raise InputError("itq compares by Hamming distance, metric must be l2 or cosine, got ip")
    fitted = _fit_itq(jax.random.key(seed), _prepared(x, bits, metric)[0], num_bits=bits)
    return BinaryCodec(bits, fitted.mean, fitted.projection)


def vector_embedding(codec: Codec, metric: str) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns `(weights, x [B, D]) -> [B, width]`, which prepares vectors for a fitted codec.

    Args:
      codec: Of one of `CODECS`.
      metric: The metric that it was fitted with.
    """

    def embed(weights, x):
        del weights
        x = unit(x) if metric == "cosine" else x
        if isinstance(codec, ProductCodec):
            return _padded(x, len(codec.codebooks))
        return x

    return embed


def _prepared(x, bits, metric, num_codewords=None):
    """Checks vectors; returns them, of length 1 for "cosine", and the sizes of codebooks."""
    # Outside of jit, where values can be looked at.
    product.check_metric(metric)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"a codec is fitted to vectors [N, D] of 2 rows or more, got {x.shape}")
    check_finite("vectors", x)
    if num_codewords is None:
        num_codewords = packing.num_codewords(bits, len(x))
    sizes = {"num_codebooks": packing.num_codebooks(bits, num_codewords)}
    x = jnp.asarray(x, jnp.float32)
    return unit(x) if metric == "cosine" else x, {**sizes, "num_codewords": num_codewords}


def _padded(x, num_codebooks):
    # Zeros change no distance.
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % num_codebooks)))


CODECS = {"pq": pq, "opq": opq, "rq": rq, "neural_rq": neural_rq, "itq": itq}
"""Functions that fit a codec, by the name of what they fit."""

# Compiled whole, instead of operation by operation.
_SIZES = ("num_codebooks", "num_codewords")
_fit_product = jax.jit(product.fit_codebooks, static_argnames=_SIZES)
_fit_rotated = jax.jit(rotation.opq, static_argnames=(*_SIZES, "num_iterations"))
_fit_residual = jax.jit(additive.fit_codebooks, static_argnames=(*_SIZES, "beam_width"))
_fit_itq = jax.jit(rotation.itq, static_argnames="num_bits")
