"""How a metric runs: checked, cut to what can be reached, compiled for JAX and plain for NumPy.

A metric is a function `(counts, top_k, *options) -> values`, written once for both array modules
and named at the top of its file (compiled programs are kept by function); options are strings.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.metrics.checks import (
    check_counts,
    check_distances,
    check_graded_counts,
    check_grades,
)
from quantjax.metrics.harmonic import Array
from quantjax.metrics.levels import (
    counts_from_distances,
    graded_counts_from_distances,
    without_rounding,
)

_LARGEST_CUT = 2**31 - 1
_COUNTS_AT_ONCE = 2**24


def measure_counts(
    metric: Callable[..., Any], counts: Array, top_k: int | None, *options: str
) -> Any:
    """Runs a metric on counts of items and relevant items.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      counts: Due as integers [Q, levels, 2].
      top_k: The cut; None from the first cut on that reaches all items of every query.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_counts`.
    """
    counts = check_counts(counts)
    return run(metric, counts, clip_cut(top_k, counts[..., :1]), *options)


def measure_distances(
    metric: Callable[..., Any],
    distances: Array,
    relevant: Array,
    top_k: int | None,
    *options: str,
) -> Any:
    """Runs a metric of counts on distances.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      distances: Due as real numbers [Q, N].
      relevant: Due as bool of the same shape.
      top_k: The cut, or None.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_distances`.
    """
    distances, relevant = check_distances(distances, relevant)
    top_k = None if top_k is None or top_k >= distances.shape[1] else int(top_k)
    arrays = without_rounding(distances), jnp.asarray(relevant)
    return _on_distances(metric, *arrays, (top_k, *options))


def measure_graded_counts(
    metric: Callable[..., Any], counts: Array, top_k: int | None, *options: str
) -> Any:
    """Runs a metric on graded counts.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      counts: Due as integers [Q, levels, G].
      top_k: The cut; None from the first cut on that reaches all items of every query.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_graded_counts`.
    """
    counts = check_graded_counts(counts)
    return run(metric, counts, clip_cut(top_k, counts), *options)


def measure_grades(
    metric: Callable[..., Any],
    distances: Array,
    grades: Array,
    num_grades: int,
    top_k: int | None,
    *options: str,
) -> Any:
    """Runs a metric of graded counts on distances.

    Queries go in groups of at most 2^24 counts, so that G counts an item do not fill the memory.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      distances: Due as real numbers [Q, N].
      grades: Due as integers of the same shape.
      num_grades: G.
      top_k: The cut, or None.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_grades`.
    """
    distances, grades = check_grades(distances, grades, num_grades)
    top_k = None if top_k is None or top_k >= distances.shape[1] else int(top_k)
    arrays = without_rounding(distances), jnp.asarray(grades)
    return _on_grades(metric, *arrays, int(num_grades), (top_k, *options))


def run(metric: Callable[..., Any], counts: Array, *options: object) -> Any:
    """Calls a metric, compiled if the counts are JAX's.

    Args:
      metric: `(counts, *options) -> values`.
      counts: Counts that passed their check.
      *options: Hashable.

    Returns:
      What the metric returns.
    """
    if isinstance(counts, jax.Array):
        return _compiled(metric, counts, options)
    return metric(counts, *options)


def clip_cut(top_k: int | None, counts: Array) -> int | None:
    """Drops a cut that no query's ranking reaches.

    Args:
      top_k: The cut, or None.
      counts: Items of every kind at every level, [Q, levels, kinds].

    Returns:
      None where the cut cuts nothing, else the cut; of a traced array nothing is known.
    """
    if top_k is None:
        return None
    if isinstance(counts, Tracer):
        return min(int(top_k), _LARGEST_CUT)
    most = np.asarray(counts).sum((1, 2)).max(initial=0)
    return None if top_k >= most else int(top_k)


def in_float32(values: Any) -> Any:
    """Returns real values as float32, which x64 would give as float64, and others as they are."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, values
    )


@jax.jit(static_argnums=(0, 2))
def _compiled(metric, counts, options):
    return in_float32(metric(counts, *options))


@jax.jit(static_argnums=(0, 3))
def _on_distances(metric, distances, relevant, options):
    return in_float32(metric(counts_from_distances(distances, relevant), *options))


@jax.jit(static_argnums=(0, 3, 4))
def _on_grades(metric, distances, grades, num_grades, options):
    def one(row):
        query = (part[None] for part in row)
        return metric(graded_counts_from_distances(*query, num_grades=num_grades), *options)[0]

    at_once = max(1, _COUNTS_AT_ONCE // (distances.shape[1] * num_grades))
    return in_float32(jax.lax.map(one, (distances, grades), batch_size=at_once))
