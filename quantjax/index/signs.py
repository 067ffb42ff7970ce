"""Finds the nearest binary codes of one or two queries on a CPU, by counting bits.

A processor counts the bits of many rows at once, where each byte of the codes lies in a row of its
own. A scan by tables shares each load among eight queries or more, and is faster for these.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index.finish import first
from quantjax.index.scan import padded
from quantjax.index.shares import Found
from quantjax.index.tables import BLOCK
from quantjax.quantizers import BinaryCodec

MOST = 2  # queries


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


def serves(codec: object, num_queries: int) -> bool:
    """Returns whether `nearest_signs` takes a search: few queries, binary codes, on a CPU."""
    few = isinstance(codec, BinaryCodec) and num_queries <= MOST
    return few and jax.default_backend() == "cpu"


def put_signs(codec: BinaryCodec, codes: np.ndarray) -> Signs:
    """Copies codes [N, num_bytes] to the device."""
    planes = jnp.asarray(np.ascontiguousarray(padded(codes).T))
    return Signs(codec, planes, len(codes))


def nearest_signs(signs: Signs, queries: np.ndarray, top_k: int) -> Found:
    """Returns distances [Q, k] float32 and rows [Q, k] int64; equal distances by row."""
    # Of eight queries, as in a scan: another shape would round differently.
    block = np.pad(queries, ((0, BLOCK - len(queries)), (0, 0)))
    asked = np.asarray(_encoded(signs.codec, block))[: len(queries)]
    found = [_nearest(signs, query, top_k) for query in asked]
    distances, rows = map(np.stack, zip(*found, strict=True))
    return distances.astype(np.float32), rows


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
