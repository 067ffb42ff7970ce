"""Finds the nearest binary codes on a CPU, by counting the bits that differ.

A processor counts the bits of many rows at once, where each byte of the codes lies in a row of its
own: twice as fast as to look them up in tables for many queries, and more for one.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index.finish import first
from quantjax.index.scan import padded
from quantjax.index.shares import Found
from quantjax.index.tables import BLOCK
from quantjax.quantizers import BinaryCodec


class Signs(NamedTuple):
    """Holds binary codes on the device.

    Attributes:
      codec: Codec of the items.
      planes: Each byte of all codes, [num_bytes, R]; the last code is repeated at the end.
      count: Number of items.
    """

    codec: BinaryCodec
    planes: jax.Array
    count: int


def serves(codec: object) -> bool:
    """Returns whether `nearest_signs` takes a search of one device: binary codes, on a CPU."""
    return isinstance(codec, BinaryCodec) and jax.default_backend() == "cpu"


def put_signs(codec: BinaryCodec, codes: np.ndarray) -> Signs:
    """Copies codes [N, num_bytes] to the device."""
    planes = jnp.asarray(np.ascontiguousarray(padded(codes).T))
    return Signs(codec, planes, len(codes))


def nearest_signs(signs: Signs, queries: np.ndarray, top_k: int) -> Found:
    """Returns distances [Q, k] float32 and rows [Q, k] int64; equal distances by row."""
    asked = np.concatenate([_encoded(signs.codec, block) for block in _blocks(queries)])
    find = functools.partial(_nearest, signs, top_k=top_k)
    if len(queries) == 1:
        found = [find(asked[0])]
    else:
        # In threads: compiled counts take one core, and NumPy's part of the work another.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(find, asked[: len(queries)]))
    distances, rows = map(np.stack, zip(*found, strict=True))
    return distances.astype(np.float32), rows


def _blocks(queries):
    # Always of 8 queries: another shape would round differently.
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        yield np.pad(block, ((0, BLOCK - len(block)), (0, 0)))


@jax.jit
def _encoded(codec, queries):
    return codec.encode(queries)


def _nearest(signs, query, top_k):
    distances = np.asarray(_counts(signs.planes, query))[: signs.count]
    rows = first(distances, top_k)
    return distances[rows], rows


@jax.jit
def _counts(planes, query):
    """Returns how many bits of each code differ from the query's, [R]."""
    # Up to 255 bits add up in a byte, where a processor adds most at once.
    narrow = jnp.uint8 if len(planes) < 32 else jnp.uint16
    differ = (plane ^ byte for plane, byte in zip(planes, query, strict=True))
    return functools.reduce(jnp.add, (jax.lax.population_count(x).astype(narrow) for x in differ))
