"""Keeps digits that float32 loses: sums in two parts, and distances that leave its range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import can_be_seen
from quantjax.errors import InputError

_SMALLEST = 2.0**-56
"""Below it 1e-4 of a squared distance is no normal float32."""
_LARGEST = 2.0**62
"""Above it, over the root of the width, a squared distance may be infinite."""


@jax.jit
def two_part_sum(terms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums terms to twice the digits of float32, as a float32 sum and its rounding error.

    Args:
      terms: Numbers [n, ...] float32, n at least 1.

    Returns:
      The rounded sum [...] and what is missing from it [...], both without gradient.

    Reference:
      Ogita, Rump, Oishi, Accurate Sum and Dot Product, SIAM J. Sci. Comput. 26(6), 2005.
    """
    terms = jax.lax.stop_gradient(terms)
    error = jnp.zeros_like(terms[0])
    while len(terms) > 1:
        if len(terms) % 2:
            terms = jnp.concatenate([terms, jnp.zeros_like(terms[:1])])
        sums, errors = _two_sum(terms[::2], terms[1::2])
        terms, error = sums, error + jnp.sum(errors, axis=0)
    return _two_sum(terms[0], error)


@jax.jit
def two_part_product(row: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Multiplies a row by a matrix to twice the digits of float32.

    Args:
      row: Numbers [D], of float32 or fewer digits.
      matrix: Numbers [D, E], of float32 or fewer digits.

    Returns:
      The rounded product [E], with its gradient, and what is missing from it [E].
    """
    # Products of halves, of 12 bits each, fit the 24 bits of float32.
    terms = [a[:, None] * b for a in _halves(row) for b in _halves(matrix)]
    high, low = two_part_sum(jnp.concatenate(terms))
    plain = matmul(row, matrix)
    return high + (plain - jax.lax.stop_gradient(plain)), low


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices in float32: accelerators take fewer bits unless told otherwise.

    Args:
      a: Numbers [..., n].
      b: Numbers [n, m].

    Returns:
      Products [..., m] float32.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def in_range(queries: jax.Array, items: jax.Array, metric: str) -> jax.Array:
    """Raises ValueError if float32 cannot hold the "l2" or "ip" distances of a query.

    Squares of numbers near 1e-30 all round to 0, which would be ties.

    Args:
      queries: Rows [Q, D].
      items: What they are compared with, codewords or rows, of any shape.
      metric: "l2" or "ip".

    Returns:
      The queries. Where values cannot be checked, as under `jit`, a refused row is NaN.

    Raises:
      ValueError: if the distances of a query are below or above float32's range.
    """
    checked, bad, sizes = _in_range(queries, items, metric)
    if can_be_seen(bad) and np.any(bad):
        row = int(np.argmax(bad))
        raise InputError(
            f"float32 cannot hold the {metric!r} distances of query {row} to numbers of size "
            f"{float(np.ravel(sizes)[row]):.0e}: multiply all embeddings by one factor before "
            "fitting, or take the metric 'cosine'"
        )
    return checked


@functools.partial(jax.jit, static_argnums=2)
def _in_range(queries, items, metric):
    """Returns the queries with NaN in refused rows, whether each is refused, and its size."""
    rows = jnp.max(jnp.abs(queries), axis=-1, keepdims=True, initial=0)
    largest = jnp.max(jnp.abs(items), initial=0)
    # Roots first: the product of two small numbers would round to 0.
    sizes = jnp.maximum(rows, largest) if metric == "l2" else jnp.sqrt(rows) * jnp.sqrt(largest)
    bad = (sizes > _LARGEST / max(1, queries.shape[-1]) ** 0.5) | (sizes < _SMALLEST) & (sizes > 0)
    return jnp.where(bad, jnp.nan, queries), bad, sizes


def not_negative(distances: jax.Array) -> jax.Array:
    """Returns distances with 0 in place of what rounding made negative; NaN stays NaN."""
    # Not `jnp.maximum`: on CPUs some compiled forms of it give 0 for NaN.
    return jnp.where(distances <= 0, 0, distances)


def _two_sum(a, b):
    """Returns the rounded sum and its rounding error, which float32 holds exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(x):
    """Returns the first 12 bits of each float32 and the rest, which sum to it exactly."""
    x = jax.lax.stop_gradient(jnp.asarray(x, jnp.float32))
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
