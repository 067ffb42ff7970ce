"""Metric ids, such as "map@all|ties=expected", and argument checks of the metrics."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.errors import InputError
from quantjax.metrics.rank_sums import Array

TIES = ("expected", "best", "worst")
DENOMINATORS = ("hits", "capped", "all")
DISTANCES = ("aqd", "sqd", "float", "hamming", "own")


def metric_id(
    *,
    top_k: int | None = None,
    ties: str = "expected",
    denominator: str = "capped",
    zero: int = 0,
    distance: str,
) -> str:
    """Returns the id of a mean average precision: its name with all options.

    >>> metric_id(top_k=5000, distance="aqd")
    'map@5000|ties=expected|den=capped|zero=0|dist=aqd'

    Args:
      top_k: The cut, or None for the whole ranking.
      ties: "expected", "best" or "worst".
      denominator: "hits", "capped" or "all", as in `average_precision`.
      zero: Value of a query without relevant items; 0 is the only convention so far.
      distance: Distance of the ranking: "aqd" (real query, coded database), "sqd" (both coded),
        "float" (both real), "hamming", or "own" for distances from elsewhere.

    Returns:
      The id, for example `map@all|ties=expected|den=capped|zero=0|dist=aqd`.

    Raises:
      ValueError: if an argument is none of the above.
    """
    check_cut(top_k)
    check_choice("ties", ties, TIES)
    check_choice("denominator", denominator, DENOMINATORS)
    check_choice("distance", distance, DISTANCES)
    check_choice("zero", zero, (0,))
    cut = "all" if top_k is None else int(top_k)
    return write_id(cut, ties=ties, denominator=denominator, zero=zero, distance=distance)


def write_id(
    cut: object,
    *,
    ties: str,
    denominator: str,
    zero: int | str,
    distance: str,
    convention: str | None = None,
) -> str:
    """Joins checked parts to a metric id.

    Args:
      cut: Text after "map@".
      ties: As in `metric_id`, or "storage" (by position in the database).
      denominator: As in `metric_id`.
      zero: 0, or another fate of queries, see `Convention`.
      distance: As in `metric_id`.
      convention: Name of the evaluator that is reproduced, if one is.

    Returns:
      The id, for example `map@all-1|ties=storage|den=hits|zero=0|dist=hamming|as=deephash-pytorch`.
    """
    metric = f"map@{cut}|ties={ties}|den={denominator}|zero={zero}|dist={distance}"
    return metric if convention is None else f"{metric}|as={convention}"


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


MOST_GRADES = 64


def check_options(top_k: int | None, denominator: str, ties: str) -> None:
    """Raises ValueError if the cut, the denominator or the tie order is unknown.

    Args:
      top_k: None or an integer of at least 1.
      denominator: One of `DENOMINATORS`.
      ties: One of `TIES`.

    Raises:
      ValueError: naming the option, the given value and the allowed values.
    """
    check_cut(top_k)
    check_choice("denominator", denominator, DENOMINATORS)
    check_ties(ties)


def check_ties(ties: str) -> None:
    """Raises ValueError if the tie order is unknown.

    Args:
      ties: One of `TIES`.

    Raises:
      ValueError: naming the given value and the allowed values.
    """
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
    distances, relevant = _as_array(distances), _as_array(relevant)
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
    distances, grades = _as_array(distances), _as_array(grades)
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
      ValueError: naming the given and the required form; values of a traced array are not checked.
    """
    counts = _as_array(counts)
    if counts.ndim != 3 or counts.shape[1] == 0 or counts.shape[2] != 2:
        raise InputError(f"counts must have shape [Q, levels, 2], got {counts.shape}")
    if not jnp.issubdtype(counts.dtype, np.integer):
        raise InputError(f"counts must be integers, got {counts.dtype}")
    if not isinstance(counts, Tracer):
        _check_values(np.asarray(counts))
    return counts.astype(np.int32 if isinstance(counts, jax.Array) else np.int64)


def _check_values(counts):
    items, relevant = counts[..., 0], counts[..., 1]
    wrong = np.flatnonzero(((relevant < 0) | (relevant > items)).any(axis=1))
    if wrong.size:
        raise InputError(
            "counts must hold 0 <= relevant counts[..., 1] <= items counts[..., 0] at every "
            f"level; row {wrong[0]} does not"
        )
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
      ValueError: naming the given and the required form; values of a traced array are not checked.
    """
    counts = _as_array(counts)
    if counts.ndim != 3 or counts.shape[1] == 0 or not 2 <= counts.shape[2] <= MOST_GRADES:
        raise InputError(
            f"graded counts must have shape [Q, levels, G] with G from 2 to {MOST_GRADES}, "
            f"got {counts.shape}"
        )
    if not jnp.issubdtype(counts.dtype, np.integer):
        raise InputError(f"graded counts must be integers, got {counts.dtype}")
    if not isinstance(counts, Tracer):
        _check_graded_values(np.asarray(counts))
    return counts.astype(np.int32 if isinstance(counts, jax.Array) else np.int64)


def _check_graded_values(counts):
    wrong = np.flatnonzero((counts < 0).any(axis=(1, 2)))
    if wrong.size:
        raise InputError(f"graded counts must not be negative; row {wrong[0]} has such a number")
    weights = np.maximum(np.arange(counts.shape[2]), 1.0)
    total = (counts * weights).sum((1, 2)).max(initial=0)
    if total >= 2**31:
        raise InputError(
            f"items and their grades must sum to less than 2^31 a query, got {total:.0f}"
        )


def check_chance(num_relevant: Array, num_items: int) -> Array:
    """Raises ValueError if numbers of relevant items are not from 0 to the number of items.

    Args:
      num_relevant: Must be integers [Q], 0 to `num_items`.
      num_items: Must be an integer of at least 1.

    Returns:
      `num_relevant` as an array.

    Raises:
      ValueError: naming the given and the required form; values of a traced array are not checked.
    """
    num_relevant = _as_array(num_relevant)
    if num_relevant.ndim != 1 or not jnp.issubdtype(num_relevant.dtype, np.integer):
        raise InputError(
            f"num_relevant must be integers [Q], got {num_relevant.dtype} {num_relevant.shape}"
        )
    if not isinstance(num_items, (int, np.integer)) or not 1 <= num_items < 2**31:
        raise InputError(f"num_items must be an integer from 1 to 2^31 - 1, got {num_items!r}")
    if not isinstance(num_relevant, Tracer):
        values = np.asarray(num_relevant)
        if values.size and not 0 <= values.min() <= values.max() <= num_items:
            raise InputError(
                f"num_relevant must be from 0 to num_items = {num_items}, "
                f"got {values.min()} to {values.max()}"
            )
    return num_relevant


def _as_array(values):
    return values if isinstance(values, jax.Array) else np.asarray(values)
