"""Turns codecs into sums of lookup tables, the one form of distance that `scan` computes.

A code is read as M numbers, and every distance is a sum of M table entries: of a byte's differing
bits, of a codeword's squared distance, of a class's surprise. Where a metric needs more than a sum,
each item has a term that the sum is moved by, or scaled with:

    distance(q, n) = base + scale_n * (shift_n + sum_m tables[m, a_nm, q])
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
    additive,
    packing,
    product,
)
from quantjax.quantizers.product import root

BLOCK = 8  # queries whose tables are computed at once: another shape would round differently


class Terms(NamedTuple):
    """Per-item terms of a distance, beside the sum of table entries.

    Attributes:
      base: Number added to each distance.
      shift: [N] float32, added to the items' sums.
      scale: [N] float32, which multiplies the shifted sums.
    """

    base: jax.Array
    shift: jax.Array
    scale: jax.Array


@functools.singledispatch
def width(codec):
    """Returns D, the width of the embeddings that a codec takes."""
    raise TypeError(f"no width for {type(codec).__name__}")


@functools.singledispatch
def numbers(codec, codes):
    """Reads codes [N, num_bytes] as table numbers [N, M], without a copy where they are bytes."""
    return codes


@functools.singledispatch
def tables(codec, queries):
    """Returns the tables [M, K, Q] of queries [Q, D], for `numbers` below K."""
    raise TypeError(f"no lookup tables for {type(codec).__name__}")


@functools.singledispatch
def terms(codec, codes):
    """Returns the terms of items [N], or None where distances are plain sums."""


@width.register(ProductCodec)
def _(codec):
    return codec.codebooks.shape[0] * codec.codebooks.shape[2]


@width.register(ResidualCodec)
@width.register(NeuralResidualCodec)
def _(codec):
    return codec.codebooks.shape[2]


@width.register(BinaryCodec)
def _(codec):
    return codec.num_bits if codec.projection is None else len(codec.projection)


@width.register(FloatCodec)
def _(codec):
    return codec.dim


@width.register(ClassCodec)
def _(codec):
    return codec.num_classes


@numbers.register(ProductCodec)
@numbers.register(ResidualCodec)
def _(codec, codes):
    # Whole codewords in a byte: their table entries are added ahead of time, see `_by_byte`.
    return codes if 8 % _bits(codec) == 0 else codec.assignments(codes)


@numbers.register(ClassCodec)
def _(codec, codes):
    return codec.class_ids(codes)[:, None]


@tables.register(BinaryCodec)
def _(codec, queries):
    bytes_ = jnp.arange(256, dtype=jnp.uint8)
    differ = codec.encode(queries).T[:, None] ^ bytes_[:, None]
    # Distances of up to 255 bits add up in a byte, where a processor adds most at once.
    narrow = jnp.uint8 if codec.bits < 256 else jnp.int16
    return jax.lax.population_count(differ).astype(narrow)


@tables.register(ClassCodec)
def _(codec, queries):
    every = jnp.arange(codec.num_classes)[:, None] >> jnp.arange(codec.bits)
    return codec.distances(queries, packing.pack(every & 1, 1)).T[None]


@tables.register(ProductCodec)
def _(codec, queries):
    books, queries = codec.rotate("queries", queries)
    # The cosine is the inner product of lengths 1: that of items is a term, see `terms`.
    metric = "l2" if codec.metric == "l2" else "ip"
    if codec.metric == "cosine":
        queries = _unit(queries)
    return _by_byte(codec, product.lookup_tables(books, queries, metric=metric))


@tables.register(ResidualCodec)
def _(codec, queries):
    if codec.metric == "cosine":
        queries = _unit(queries)
    # ||q - x||^2 = ||q||^2 - 2 <q, x> + ||x||^2: the last is a term of the item.
    books = jnp.asarray(codec.codebooks, jnp.float32)
    factor = -1
    if codec.metric == "l2":
        books, middle = _centred(books)
        queries, factor = queries - middle, -2
    entries = jnp.einsum("qd,mkd->qmk", queries, books, precision=jax.lax.Precision.HIGHEST)
    entries = factor * entries
    if codec.metric == "l2":
        squares = jnp.sum(jnp.square(queries), axis=-1)
        entries = entries.at[:, 0].add(squares[:, None])
    return _by_byte(codec, entries)


@terms.register(ProductCodec)
def _(codec, codes):
    if codec.metric != "cosine":
        return None
    squares = jnp.sum(jnp.square(jnp.asarray(codec.codebooks, jnp.float32)), axis=-1)
    return _over_lengths(root(product.look_up(squares[:, None], codec.assignments(codes))[0]))


@terms.register(ResidualCodec)
def _(codec, codes):
    assignments = codec.assignments(codes)
    if codec.metric == "cosine":
        return _over_lengths(root(additive.squared_norms(codec.codebooks, assignments)))
    if codec.metric == "ip":
        return None
    books, _ = _centred(jnp.asarray(codec.codebooks, jnp.float32))
    squares = additive.squared_norms(books, assignments)
    return Terms(jnp.float32(0), squares, jnp.ones_like(squares))


def _over_lengths(lengths):
    # A vector of zeros has cosine 0 to everything.
    inverse = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
    return Terms(jnp.float32(1), jnp.zeros_like(lengths), inverse)


def _centred(books):
    """Moves codebooks [M, K, D] to their middles; returns them and the sum of the middles [D]."""
    middles = jnp.mean(books, axis=1, keepdims=True)
    return books - middles, jnp.sum(middles, axis=(0, 1))


def _unit(queries):
    lengths = root(jnp.sum(jnp.square(queries), axis=-1, keepdims=True))
    return queries / jnp.where(lengths > 0, lengths, 1)


def _bits(codec):
    return packing.bits_per_codeword(codec.codebooks.shape[1])


def _by_byte(codec, entries):
    """Adds tables [Q, M, K] of the codewords that share a byte; returns [bytes, 256, Q]."""
    bits = _bits(codec)
    if 8 % bits:
        return entries.transpose(1, 2, 0)
    each = 8 // bits
    entries = jnp.pad(entries, ((0, 0), (0, -entries.shape[1] % each), (0, 0)))
    byte = np.arange(256)
    parts = [entries[:, i::each, byte >> bits * i & 2**bits - 1] for i in range(each)]
    return functools.reduce(jnp.add, parts).transpose(1, 2, 0)
