"""Scans the codes of one device for the nearest of a block of queries.

The scan has two passes. The first computes sums of small whole numbers, in which 8 or 32 queries
share each load, and keeps only the least sum of each group of rows, and of groups of groups. The
k-th least bounds what can be among the k nearest. The second pass computes the distances of the
few rows within the bound, to the last bit the same for any number of rows, queries and devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.index import tables as of_codec
from quantjax.index.tables import Terms
from quantjax.quantizers import Codec

GROUP = 4  # rows of a group; all are unrolled, and 16 rows compile four times as long
FAN = 16  # groups of a larger group
_FEW = 2  # queries whose distances are computed one query after another
_SPARE = 8  # groups for each of the k nearest, at least, or the bound is loose
_LEVELS = 32_000  # of a quantized sum; the sums of their rounding fit in int16 too


class Shard(NamedTuple):
    """Holds the items of one device.

    Attributes:
      codec: Codec of the items, on the device.
      numbers: Table numbers [R, M]; the last row is repeated at the end.
      terms: Terms of the items [R], or None.
      first: Number of the first row.
      count: Rows that are items.
    """

    codec: Codec
    numbers: jax.Array
    terms: Terms | None
    first: int
    count: int


class Block(NamedTuple):
    """Holds the tables of 8 or 32 queries, and their whole numbers for the first pass.

    A distance is at most base + step * (sum + slack), and not below base + step * (sum - slack).

    Attributes:
      tables: [M, K, Q], of float32 or whole numbers.
      sums: [M, K, Q] int16 or uint8, or float32 where items have terms.
      base: [Q].
      step: [Q].
      slack: [Q], in steps; 0 where sums are distances.
      count: Queries that are not padding.
    """

    tables: jax.Array
    sums: jax.Array
    base: np.ndarray
    step: np.ndarray
    slack: np.ndarray
    count: int

    @property
    def is_exact(self) -> bool:
        """Returns whether sums are the distances themselves, whole numbers."""
        return jnp.issubdtype(self.tables.dtype, jnp.integer)


def put_shard(codec: Codec, codes: np.ndarray, first: int, device: jax.Device) -> Shard:
    """Copies codes [n, num_bytes] to a device and computes what distances to them need."""
    there = jax.device_put(np.ascontiguousarray(padded(codes)), device)
    codec = jax.device_put(codec, device)
    return Shard(codec, *_read(codec, there), first, len(codes))


def padded(codes: np.ndarray) -> np.ndarray:
    """Repeats the last of codes [n, num_bytes] up to one of few numbers of rows."""
    # Sixteen sizes in an octave: an index that grows compiles its scan anew only now and then.
    size = max(GROUP * FAN, 1 << max(0, len(codes).bit_length() - 5))
    padding = -len(codes) % size
    return np.concatenate([codes, np.repeat(codes[-1:], padding, axis=0)]) if padding else codes


@jax.jit
def _read(codec, codes):
    return of_codec.numbers(codec, codes), of_codec.terms(codec, codes)


def put_block(queries: np.ndarray, size: int, shard: Shard) -> Block:
    """Computes the tables of at most `size` queries [n, D] on a shard's device."""
    padded = np.pad(queries, ((0, size - len(queries)), (0, 0)))
    parts = [
        _tables(shard.codec, padded[start : start + of_codec.BLOCK])
        for start in range(0, size, of_codec.BLOCK)
    ]
    tables, sums, *bounds = _quantized(parts, shard.terms)
    return Block(tables, sums, *map(np.asarray, bounds), len(queries))


@jax.jit
def _tables(codec, queries):
    return of_codec.tables(codec, queries)


@jax.jit
def _quantized(parts, terms):
    """Joins tables [M, K, 8] to one, and rounds them to whole numbers of equal steps."""
    tables = jnp.concatenate(parts, axis=-1)
    zero, one = jnp.zeros(tables.shape[-1]), jnp.ones(tables.shape[-1])
    if jnp.issubdtype(tables.dtype, jnp.integer):
        return tables, tables, zero, one, zero
    most = jnp.sum(jnp.max(jnp.abs(tables), axis=1), axis=0)
    rounding = 4 * tables.shape[0] * jnp.finfo(jnp.float32).eps
    if terms is not None:
        largest = (most + jnp.max(jnp.abs(terms.shift))) * jnp.max(jnp.abs(terms.scale))
        return tables, tables, zero + terms.base, one, rounding * (largest + jnp.abs(terms.base))
    # Each table from 0 up, so that no step is spent on what all its entries share.
    low = jnp.min(tables, axis=1)
    step = jnp.sum(jnp.max(tables, axis=1) - low, axis=0) / _LEVELS
    step = jnp.where(step > 0, step, 1)
    # Rounded down in each of M tables: a sum is less than M below the true one.
    sums = jnp.floor((tables - low[:, None]) / step).astype(jnp.int16)
    slack = tables.shape[0] + 2 + jnp.ceil(rounding * most / step)
    return tables, sums, jnp.sum(low, axis=0), step, slack


class Scan(NamedTuple):
    """Holds the first pass over a shard: least sums of groups, of groups of groups, and so on.

    Attributes:
      block: The queries.
      shard: The items.
      levels: [groups, Q] each, from 4 rows a group up; none where every row is computed.
    """

    block: Block
    shard: Shard
    levels: list[jax.Array]


def scan(block: Block, shard: Shard, top_k: int) -> Scan:
    """Starts the first pass; the device computes while the caller goes on."""
    groups, levels = -(-shard.count // GROUP), []
    # For a query or two, sums of all rows cost less than those of a block.
    if block.count > _FEW and groups >= _SPARE * top_k:
        levels.append(_least_sums(block.sums, shard.numbers, shard.terms))
        while groups // FAN >= _SPARE * top_k:
            levels.append(_least(levels[-1], groups))
            groups = -(-groups // FAN)
    return Scan(block, shard, levels)


@jax.jit
def _least_sums(tables, numbers, terms):
    """Returns the least sum of every 4 rows, [R / 4, Q].

    The innermost loop runs over queries, whose table entries lie side by side: one load and one
    addition serve as many queries as fit in a register.
    """
    numbers = numbers.reshape(-1, GROUP, numbers.shape[1])
    sums = [sums_of(tables, numbers[:, row]) for row in range(GROUP)]
    if terms is not None:
        shift, scale = terms.shift.reshape(-1, GROUP), terms.scale.reshape(-1, GROUP)
        sums = [(x + shift[:, i, None]) * scale[:, i, None] for i, x in enumerate(sums)]
    return functools.reduce(jnp.minimum, sums)


def sums_of(tables, numbers):
    """Returns sums of table entries, [n, Q], for tables [M, K, Q] and numbers [n, M]."""
    # In one order for every row, so that items of equal code get equal bits.
    entries = [
        table.at[numbers[:, m]].get(mode="promise_in_bounds") for m, table in enumerate(tables)
    ]
    return functools.reduce(jnp.add, entries)


@jax.jit
def _least(sums, count):
    """Returns the least of every 16 rows of sums [G, Q], of which the first `count` are groups."""
    whole = jnp.iinfo(sums.dtype).max if jnp.issubdtype(sums.dtype, jnp.integer) else jnp.inf
    sums = jnp.where(jnp.arange(len(sums))[:, None] < count, sums, jnp.asarray(whole, sums.dtype))
    sums = jnp.pad(sums, ((0, -len(sums) % FAN), (0, 0)), constant_values=whole)
    sums = sums.reshape(-1, FAN, sums.shape[1])
    return functools.reduce(jnp.minimum, [sums[:, i] for i in range(FAN)])
