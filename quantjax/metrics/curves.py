"""Precision and recall curves over distances or cuts, and precision within a Hamming radius."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.metrics.levels import (
    HITS,
    Levels,
    counts_from_distances,
    levels_from_counts,
    without_rounding,
)
from quantjax.metrics.rank_sums import Array
from quantjax.metrics.running import (
    TIES,
    check_choice,
    check_counts,
    check_distances,
    in_float32,
    run,
)


class PrecisionRecall(NamedTuple):
    """Precision and recall at each point of a curve.

    Attributes:
      precision: [Q, points] in 0..1; 0 where no item is taken.
      recall: [Q, points] in 0..1; 0 where nothing is relevant.
    """

    precision: Array
    recall: Array


class BallPrecision(NamedTuple):
    """Precision of the items within a radius, with a mark for empty balls.

    Attributes:
      value: [Q] in 0..1; 0 for an empty ball.
      empty: Whether the ball holds no item, [Q] bool. Report its share beside the mean of `value`.
    """

    value: Array
    empty: Array


def precision_recall_curve_from_counts(counts: Array) -> PrecisionRecall:
    """Returns precision and recall of the items up to each level of distance.

    The items within a radius are a set, so ties need no order. With integer distances level r is
    radius r.

    Args:
      counts: Items and relevant items at every level, nearest first, integers [Q, levels, 2].

    Returns:
      Both curves, [Q, levels]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`.
    """
    return run(_curve, check_counts(counts))


def precision_recall_curve(
    distances: Array, relevant: Array, *, cuts: Sequence[int] | Array, ties: str = "expected"
) -> PrecisionRecall:
    """Returns `precision` and `recall` at many cuts by a single sort.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      cuts: The numbers of items K to take, integers of at least 1 in any order; more than N takes
        all. They are values, not shapes: other cuts of the same number compile nothing.
      ties: "expected" (the mean over all orders of ties), "best" or "worst" at each cut.

    Returns:
      Both curves, [Q, cuts] float32.

    Raises:
      ValueError: as `precision`, or if `cuts` is not a row of integers of at least 1.
    """
    check_choice("ties", ties, TIES)
    distances, relevant = check_distances(distances, relevant)
    cuts = _check_cuts(cuts, distances.shape[1])
    return _curve_at(without_rounding(distances), jnp.asarray(relevant), jnp.asarray(cuts), ties)


def precision_within_radius(distances: Array, relevant: Array, *, radius: int) -> BallPrecision:
    """Returns P@H<=r: the share of relevant items among the items within a distance.

    Args:
      distances: Integers [Q, N], such as Hamming distances.
      relevant: Whether the item is relevant to the query, [Q, N] bool.
      radius: r; items at distance r are inside.

    Returns:
      Precision of every query, float32, and which balls are empty.

    Raises:
      ValueError: if shapes or types do not agree, or `radius` is not an integer of at least 0.
    """
    _check_radius(radius)
    distances, relevant = check_distances(distances, relevant)
    if not jnp.issubdtype(distances.dtype, np.integer):
        raise InputError(
            f"distances must be integers to lie on a radius or not, got {distances.dtype}: "
            "round whole numbers to int32 first"
        )
    distances = jnp.asarray(distances)
    # Cast to the type of the distances, so that the comparison overflows neither side.
    largest = jnp.asarray(min(int(radius), jnp.iinfo(distances.dtype).max), distances.dtype)
    return _ball_of_distances(distances, jnp.asarray(relevant), largest)


def precision_within_radius_from_counts(counts: Array, *, radius: int) -> BallPrecision:
    """Returns `precision_within_radius`, computed from counts of items at each distance.

    Args:
      counts: Items and relevant items at distance 0, 1, 2, ..., integers [Q, levels, 2].
      radius: r; levels 0 to r are inside.

    Returns:
      Precision of every query and which balls are empty: NumPy counts give NumPy float64, JAX
      counts float32.

    Raises:
      ValueError: as `average_precision_from_counts`, or if `radius` is not an integer of at
        least 0.
    """
    _check_radius(radius)
    return run(_ball, check_counts(counts), int(radius))


def _curve(counts):
    xp = counts.__array_namespace__()
    items, relevant = (xp.cumsum(counts[..., part], axis=1) for part in (0, 1))
    # 0 of 0 items, and of 0 relevant ones, counts as 0.
    return PrecisionRecall(
        relevant / xp.maximum(items, 1), relevant / xp.maximum(relevant[:, -1:], 1)
    )


@jax.jit(static_argnums=3)
def _curve_at(distances, relevant, cuts, ties):
    levels = levels_from_counts(counts_from_distances(distances, relevant))
    through = levels.items_before + levels.items
    # The level that holds rank K; items before it are all inside.
    place = jax.vmap(jnp.searchsorted, in_axes=(0, None))(through, cuts)
    crossed = Levels(*(jnp.take_along_axis(part, place, axis=1) for part in levels))
    hits = crossed.relevant_before + HITS[ties](crossed, cuts - crossed.items_before)
    due = jnp.maximum(levels.relevant.sum(1, keepdims=True), 1)
    return in_float32(PrecisionRecall(hits / cuts, hits / due))


@jax.jit
def _ball_of_distances(distances, relevant, radius):
    # Counted without a sort: a ball needs no order.
    inside = distances <= radius
    counts = jnp.stack([inside, inside & relevant], axis=-1).sum(1, keepdims=True)
    return in_float32(_ball(counts, 0))


def _ball(counts, radius):
    xp = counts.__array_namespace__()
    items, relevant = (counts[:, : radius + 1, part].sum(1) for part in (0, 1))
    return BallPrecision(relevant / xp.maximum(items, 1), items == 0)


def _check_cuts(cuts, num_items):
    cuts = np.asarray(cuts)
    if cuts.ndim != 1 or not np.issubdtype(cuts.dtype, np.integer) or (cuts < 1).any():
        raise InputError(f"cuts must be integers of at least 1 in one row, got {cuts}")
    # A cut beyond the last item takes all, and would lie on no level.
    return np.minimum(cuts, num_items)


def _check_radius(radius):
    whole = isinstance(radius, (int, np.integer)) and not isinstance(radius, bool)
    if not whole or radius < 0:
        raise InputError(f"radius must be an integer of at least 0, got {radius!r}")
