"""Runs a metric: checks its arguments, counts distances by level, and compiles it for JAX arrays.

A metric is a function `(counts, top_k, ties, *options) -> values`, written once for NumPy and JAX
arrays. It is a top-level function, because compiled programs are cached by function. Options are
strings.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError
from quantjax.metrics.levels import (
    counts_from_distances,
    graded_counts_from_distances,
    without_rounding,
)
from quantjax.metrics.rank_sums import Array

TIES = ("expected", "best", "worst")
DENOMINATORS = ("hits", "capped", "all")
MOST_GRADES = 64  # grades that graded counts [Q, levels, G] may hold

_LARGEST_CUT = 2**31 - 1  # of int32, the type of JAX counts
_COUNTS_AT_ONCE = 2**24  # 64 MB of int32; their running sums take as much again


def measure_counts(
    metric: Callable[..., Any], counts: Array, top_k: int | None, ties: str, *options: str
) -> Any:
    """Checks options and binary counts, and runs a metric on them.

    Args:
      metric: `(counts, top_k, ties, *options) -> values`.
      counts: All items [..., 0] and relevant ones [..., 1], integers [Q, levels, 2].
      top_k: The cut; the metric gets None for a cut that reaches all items of every query.
      ties: One of `TIES`.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_cut`, `check_choice` and `check_counts`.
    """
    _check_options(top_k, ties)
    counts = check_counts(counts)
    return run(metric, counts, _clip_cut(top_k, counts[..., :1]), ties, *options)


def measure_graded_counts(
    metric: Callable[..., Any], counts: Array, top_k: int | None, ties: str, *options: str
) -> Any:
    """Runs a metric as `measure_counts`, on counts of items by grade, [Q, levels, G]."""
    _check_options(top_k, ties)
    counts = check_graded_counts(counts)
    return run(metric, counts, _clip_cut(top_k, counts), ties, *options)


def measure_distances(
    metric: Callable[..., Any],
    distances: Array,
    relevant: Array,
    top_k: int | None,
    ties: str,
    *options: str,
) -> Any:
    """Checks options, distances and relevance, counts them by level, and runs a metric.

    Args:
      metric: `(counts, top_k, ties, *options) -> values`.
      distances: Must be real numbers [Q, N].
      relevant: Must be bool of the same shape.
      top_k: The cut, or None.
      ties: One of `TIES`.
      *options: Given to the metric.

    Returns:
      What the metric returns.

    Raises:
      ValueError: as `check_cut`, `check_choice` and `check_distances`.
    """
    _check_options(top_k, ties)
    distances, relevant = check_distances(distances, relevant)
    options = _clip_to_items(top_k, distances), ties, *options
    return _on_distances(metric, without_rounding(distances), jnp.asarray(relevant), options)


def measure_grades(
    metric: Callable[..., Any],
    distances: Array,
    grades: Array,
    num_grades: int,
    top_k: int | None,
    ties: str,
    *options: str,
) -> Any:
    """Runs a metric as `measure_distances`, on grades from 0 to `num_grades` - 1.

    Queries are measured in groups of at most 2^24 counts: G counts for each item of all queries
    would fill the memory.
    """
    _check_options(top_k, ties)
    distances, grades = check_grades(distances, grades, num_grades)
    options = _clip_to_items(top_k, distances), ties, *options
    arrays = without_rounding(distances), jnp.asarray(grades)
    return _on_grades(metric, *arrays, int(num_grades), options)


def run(metric: Callable[..., Any], counts: Array, *options: object) -> Any:
    """Calls a metric; JAX counts run compiled, NumPy counts run as they are.

    Args:
      metric: `(counts, *options) -> values`.
      counts: Counts that `check_counts` or `check_graded_counts` returned.
      *options: Hashable, because each combination is compiled on its own.

    Returns:
      What the metric returns.
    """
    if isinstance(counts, jax.Array):
        return _compiled(metric, counts, options)
    return metric(counts, *options)


def in_float32(values: Any) -> Any:
    """Casts the floating arrays of a pytree to float32, which x64 would make float64."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, values
    )


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raises ValueError if a value is not one of the choices.

    Args:
      name: The argument's name, for the message.
      value: The given value.
      choices: The allowed values.

    Raises:
      ValueError: naming the argument, the given value and the choices.
    """
    if type(value) not in map(type, choices) or value not in choices:
        due = ", ".join(map(repr, choices))
        raise InputError(f"{name} must be one of {due}, got {value!r}")


def check_cut(top_k: object) -> None:
    """Raises ValueError if a cut is neither None nor an integer of at least 1.

    Args:
      top_k: The cut.

    Raises:
      ValueError: naming the given value.
    """
    whole = isinstance(top_k, (int, np.integer)) and not isinstance(top_k, bool)
    if top_k is not None and not (whole and top_k >= 1):
        raise InputError(
            f"top_k must be an integer of at least 1, or None for all items, got {top_k!r}"
        )


def _check_options(top_k, ties):
    check_cut(top_k)
    check_choice("ties", ties, TIES)


def check_distances(distances: Array, relevant: Array) -> tuple[Array, Array]:
    """Raises ValueError if distances and relevance disagree in shape, or have wrong types or NaN.

    Args:
      distances: Must be real numbers [Q, N], N at least 1.
      relevant: Must be bool of the same shape.

    Returns:
      Both as arrays.

    Raises:
      ValueError: naming the argument, the given and the required form; for NaN, the first such row.
    """
    distances, relevant = as_array(distances), as_array(relevant)
    _check_shapes("relevant", relevant, distances)
    if relevant.dtype != bool:
        raise InputError(f"relevant must be bool, got {relevant.dtype}: compare labels first")
    _check_numbers(distances)
    return distances, relevant


def check_grades(distances: Array, grades: Array, num_grades: int) -> tuple[Array, Array]:
    """Raises ValueError if distances and grades disagree in shape, or have wrong values or NaN.

    Args:
      distances: Must be real numbers [Q, N], N at least 1.
      grades: Must be integers of the same shape, 0 to `num_grades` - 1.
      num_grades: Must be an integer from 2 to `MOST_GRADES`.

    Returns:
      Both as arrays.

    Raises:
      ValueError: naming the argument, the given and the required form; the values of a traced array
        are not checked.
    """
    distances, grades = as_array(distances), as_array(grades)
    _check_shapes("grades", grades, distances)
    if not jnp.issubdtype(grades.dtype, np.integer):
        raise InputError(f"grades must be integers, got {grades.dtype}: count shared labels")
    if not isinstance(num_grades, (int, np.integer)) or not 2 <= num_grades <= MOST_GRADES:
        raise InputError(
            f"num_grades must be an integer from 2 to {MOST_GRADES}, got {num_grades!r}"
        )
    if not isinstance(grades, Tracer) and grades.size:
        least, most = grades.min(), grades.max()
        if not 0 <= least <= most < num_grades:
            raise InputError(
                f"grades must be from 0 to num_grades - 1 = {num_grades - 1}, got {least} to {most}"
            )
    _check_numbers(distances)
    return distances, grades


def _check_shapes(name, values, distances):
    if distances.ndim != 2 or distances.shape[1] == 0:
        raise InputError(
            f"distances must have shape [Q, N] with at least one item, got {distances.shape}"
        )
    if values.shape != distances.shape:
        raise InputError(
            f"{name} must have the shape of distances, {distances.shape}, got {values.shape}"
        )


def _check_numbers(distances):
    if not jnp.issubdtype(distances.dtype, np.floating):
        _check_whole(distances)
    elif not isinstance(distances, Tracer):
        rows = np.flatnonzero(np.isnan(distances).any(axis=1))
        if rows.size:
            raise InputError(
                f"distances must be numbers, got NaN in row {rows[0]} "
                f"({rows.size} of {len(distances)} rows): look for a zero vector or a diverged loss"
            )


def _check_whole(distances):
    if not jnp.issubdtype(distances.dtype, np.integer):
        raise InputError(f"distances must be real numbers, got {distances.dtype}")
    # Without x64 no JAX array holds an integer beyond int32.
    if isinstance(distances, jax.Array) or distances.size == 0:
        return
    if not -(2**31) <= distances.min() <= distances.max() < 2**31:
        raise InputError(
            f"integer distances must fit in int32, got {distances.min()} to {distances.max()}"
        )


def check_counts(counts: Array) -> Array:
    """Raises ValueError if counts are impossible, and widens valid counts to int32 or int64.

    Args:
      counts: Must be integers [Q, levels, 2], 0 <= counts[..., 1] <= counts[..., 0].

    Returns:
      JAX counts as int32, any others as NumPy int64.

    Raises:
      ValueError: naming the given and the required form, also if a query has 2^31 items or more;
        values of a traced array are not checked.
    """
    return _checked(counts, "counts", "[Q, levels, 2]", {2}, _check_values)


def _check_values(counts):
    items, relevant = counts[..., 0], counts[..., 1]
    wrong = np.flatnonzero(((relevant < 0) | (relevant > items)).any(axis=1))
    if wrong.size:
        raise InputError(
            "counts must hold 0 <= relevant counts[..., 1] <= items counts[..., 0] at every "
            f"level; row {wrong[0]} does not"
        )
    # In float64, because a sum of integers wraps around before it can be compared.
    total = items.sum(axis=1, dtype=np.float64).max(initial=0)
    if total >= 2**31:
        raise InputError(f"counts must sum to less than 2^31 items a query, got {total:.0f}")


def check_graded_counts(counts: Array) -> Array:
    """Raises ValueError if graded counts are impossible, and widens valid counts.

    Args:
      counts: Must be integers >= 0, [Q, levels, G], G from 2 to `MOST_GRADES`.

    Returns:
      JAX counts as int32, any others as NumPy int64.

    Raises:
      ValueError: naming the given and the required form, also if a query's items or its sum of
        grades reach 2^31; values of a traced array are not checked.
    """
    due = f"[Q, levels, G] with G from 2 to {MOST_GRADES}"
    grades = range(2, MOST_GRADES + 1)
    return _checked(counts, "graded counts", due, grades, _check_graded_values)


def _checked(counts, name, due, kinds, check_values):
    counts = as_array(counts)
    if counts.ndim != 3 or counts.shape[1] == 0 or counts.shape[2] not in kinds:
        raise InputError(f"{name} must have shape {due}, got {counts.shape}")
    if not jnp.issubdtype(counts.dtype, np.integer):
        raise InputError(f"{name} must be integers, got {counts.dtype}")
    if not isinstance(counts, Tracer):
        check_values(np.asarray(counts))
    # Sums of a narrow type, such as uint8, would wrap around.
    return counts.astype(np.int32 if isinstance(counts, jax.Array) else np.int64)


def _check_graded_values(counts):
    wrong = np.flatnonzero((counts < 0).any(axis=(1, 2)))
    if wrong.size:
        raise InputError(f"graded counts must not be negative; row {wrong[0]} has such a number")
    # A sum of grades must fit in int32, and so must a number of items, whose grade 0 counts as 1.
    weights = np.maximum(np.arange(counts.shape[2]), 1.0)
    total = (counts * weights).sum((1, 2)).max(initial=0)
    if total >= 2**31:
        raise InputError(
            f"items and their grades must sum to less than 2^31 a query, got {total:.0f}"
        )


def as_array(values: Array) -> Array:
    """Returns a JAX array as it is, and anything else as a NumPy array."""
    return values if isinstance(values, jax.Array) else np.asarray(values)


def _clip_cut(top_k: int | None, counts: Array) -> int | None:
    """Returns the cut, or None where the cut of counts [Q, levels, kinds] excludes no item."""
    if top_k is None:
        return None
    # Traced counts have no sum to compare with; a cut beyond int32 would not fit beside them.
    if isinstance(counts, Tracer):
        return min(int(top_k), _LARGEST_CUT)
    most = np.asarray(counts).sum((1, 2)).max(initial=0)
    return None if top_k >= most else int(top_k)


def _clip_to_items(top_k, distances):
    # None for every cut that excludes nothing: such cuts share one compiled program.
    return None if top_k is None or top_k >= distances.shape[1] else int(top_k)


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

    # Not all queries at once: [Q, N, G] counts would fill the memory.
    at_once = max(1, _COUNTS_AT_ONCE // (distances.shape[1] * num_grades))
    return in_float32(jax.lax.map(one, (distances, grades), batch_size=at_once))
