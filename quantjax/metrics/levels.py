"""Represents a ranking by levels of equal distance, and runs metrics on them, exact in ties.

A metric is a function `(counts, top_k, *options) -> values`, written once for NumPy and JAX
arrays. It is a top-level function, because compiled programs are cached by function. Options are
strings.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quantjax.metrics.checks import check_counts, check_distances, check_graded_counts, check_grades
from quantjax.metrics.rank_sums import Array, ramp_over_ranks

_RANKED_AT_ONCE = 2**22  # distances whose ranks are worked out together, to bound the memory


class Levels(NamedTuple):
    """Levels of equal distance: item counts of each level and of all nearer levels.

    Attributes:
      items: Items on the level, n, integers [Q, levels] or any other common shape.
      relevant: Relevant ones among them, p.
      items_before: Items on nearer levels, N0.
      relevant_before: Relevant items on nearer levels, P0.
    """

    items: Array
    relevant: Array
    items_before: Array
    relevant_before: Array


def levels_from_counts(counts: Array) -> Levels:
    """Adds to every level the counts of all nearer levels.

    Args:
      counts: All items [..., 0] and relevant ones [..., 1] of every level, nearest level first,
        integers [Q, levels, 2].

    Returns:
      The levels, [Q, levels] each, in the integer type of `counts`.
    """
    xp = counts.__array_namespace__()
    through = xp.cumsum(counts, axis=1, dtype=counts.dtype)
    before = through - counts
    return Levels(counts[..., 0], counts[..., 1], before[..., 0], before[..., 1])


def ranks_inside(items: Array, items_before: Array, top_k: Array | int | None) -> Array:
    """Returns how many ranks of each level lie inside the cut.

    Args:
      items: Items on the level, [Q, levels].
      items_before: Items on nearer levels, [Q, levels].
      top_k: The cut: one for all queries, or one each as [Q, 1], or None.

    Returns:
      r, 0 to `items`, [Q, levels].
    """
    if top_k is None:
        return items
    xp = items.__array_namespace__()
    return xp.clip(top_k - items_before, 0, items)


def without_rounding(distances: Array) -> jax.Array:
    """Converts distances to a JAX array without changing their order or their ties.

    JAX converts NumPy's float64 to float32 unless x64 is enabled, which makes near distances equal.
    If the conversion would change a value, the distances are replaced by their ranks.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers without NaN.

    Returns:
      The distances, or their `dense_ranks`.
    """
    floats_of_jax = jax.dtypes.canonicalize_dtype(float)
    is_float = jnp.issubdtype(distances.dtype, np.floating)
    if isinstance(distances, jax.Array) or not is_float:
        return jnp.asarray(distances)
    if distances.dtype.itemsize <= floats_of_jax.itemsize:
        return jnp.asarray(distances)
    with np.errstate(over="ignore"):
        rounded = distances.astype(floats_of_jax)
    # Hamming distances and half distances pass as they are: ranking on the host costs a sort.
    return jnp.asarray(rounded if np.array_equal(rounded, distances) else dense_ranks(distances))


def dense_ranks(distances: np.ndarray) -> np.ndarray:
    """Ranks the distinct distances of each row 0, 1, 2, ... from the nearest, on the host.

    Args:
      distances: [Q, N] real numbers without NaN; -0.0 equals 0.0.

    Returns:
      Ranks [Q, N] int32; equal distances have equal ranks.
    """
    ranks = np.zeros(distances.shape, np.int32)
    rows = max(1, _RANKED_AT_ONCE // distances.shape[1])
    for start in range(0, len(distances), rows):
        tile = distances[start : start + rows]
        order = np.argsort(tile, axis=1)
        nearest_first = np.take_along_axis(tile, order, axis=1)
        steps = np.cumsum(nearest_first[:, 1:] != nearest_first[:, :-1], axis=1, dtype=np.int32)
        np.put_along_axis(ranks[start : start + rows], order[:, 1:], steps, axis=1)
    return ranks


def counts_from_distances(distances: jax.Array, relevant: jax.Array) -> jax.Array:
    """Counts the items and the relevant items at each distance, by one sort per row.

    A level's counts are placed at the last rank of its items; the other ranks hold empty levels.
    The shape therefore does not depend on the values, and no scatter or padding is needed.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; -0.0 equals 0.0.
      relevant: Whether the item is relevant to the query, [Q, N] bool.

    Returns:
      Counts [Q, N, 2] int32, nearest level first.
    """
    distances, relevant = jax.lax.sort((distances, relevant), num_keys=1, is_stable=False)
    begins, ends = _edges(distances)
    ones = jnp.ones_like(relevant, dtype=jnp.int32)
    return jnp.stack(
        [_count_at_ends(ones, begins, ends), _count_at_ends(relevant, begins, ends)], axis=-1
    )


def graded_counts_from_distances(
    distances: jax.Array, grades: jax.Array, *, num_grades: int
) -> jax.Array:
    """Counts the items of each grade at each distance, by one sort per row.

    Graded counts hold at [q, level, g] how many items of that level have grade g for query q;
    levels stand nearest first, and grade 0 means not relevant. The grade of an item is the number
    of labels it shares with the query. With two grades, `counts[..., 1]` are the relevant items,
    but `counts[..., 0]` the others: binary counts hold all items there.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; -0.0 equals 0.0.
      grades: Grade of the item for the query, [Q, N] integers from 0 to `num_grades` - 1; others
        are not counted.
      num_grades: G.

    Returns:
      Counts [Q, N, G] int32, nearest level first, placed as by `counts_from_distances`.
    """
    distances, grades = jax.lax.sort((distances, grades), num_keys=1, is_stable=False)
    begins, ends = _edges(distances)
    flags = grades[..., None] == jnp.arange(num_grades, dtype=jnp.int32)
    return _count_at_ends(flags, begins[..., None], ends[..., None])


def _edges(distances):
    changes = distances[:, 1:] != distances[:, :-1]
    edge = jnp.ones_like(distances[:, :1], dtype=bool)
    return jnp.concatenate([edge, changes], axis=1), jnp.concatenate([changes, edge], axis=1)


def _count_at_ends(flags, begins, ends):
    flags = flags.astype(jnp.int32)
    through = jnp.cumsum(flags, axis=1, dtype=jnp.int32)
    # Cumulative counts never fall, so a running maximum carries the last level's start along.
    before = jax.lax.cummax(jnp.where(begins, through - flags, 0), axis=1)
    return jnp.where(ends, through - before, 0)


_REACH = 5.0


# Average precision over the hits inside a cut that divides a level of ties: the number k of that
# level's relevant items inside the cut is then open, and so is the quotient's denominator. v(k) is
# the average precision given k. Each function here reduces v over all possible k: `inside` ranks
# drawn from `items`, of which `relevant` are relevant.


def expectation_over_hits(
    value: Callable[[Array], Array], items: Array, relevant: Array, inside: Array, *, top_k: int
) -> Array:
    """Averages v(k) over k, the hypergeometric number of relevant items inside the cut.

    Sums a window of 5 sqrt(top_k) on either side of the mean; the omitted weight is less than
    2 exp(-50) (Hoeffding 1963, theorem 4). The weights are computed outward from the mean by the
    ratio of neighbours, because log-gamma keeps no digits in float32.

    Args:
      value: v, from integers k [Q, window] to [Q, window].
      items: Items on the level, [Q].
      relevant: Relevant ones among them, [Q].
      inside: Ranks of the level inside the cut, [Q], at most `top_k`.
      top_k: The cut, for the width of the window.

    Returns:
      The mean of v, [Q].
    """
    xp = items.__array_namespace__()
    items, relevant, inside = items[:, None], relevant[:, None], inside[:, None]
    outside = items - relevant - inside
    mean = inside * (relevant / xp.maximum(items, 1))
    start = _clip_hits(xp.round(mean).astype(items.dtype), items, relevant, inside)
    steps = xp.arange(min(top_k, math.ceil(_REACH * math.sqrt(top_k))))
    up, down = start + steps, start - steps
    # Zero beyond the last possible k, and zero, not negative, from there on: a product of many
    # such ratios could overflow before the zero is multiplied in.
    rise = xp.maximum(relevant - up, 0) / (up + 1)
    rise = rise * (xp.maximum(inside - up, 0) / (outside + up + 1))
    fall = xp.maximum(down, 0) / (relevant - down + 1)
    fall = fall * (xp.maximum(outside + down, 0) / (inside - down + 1))
    above, below = xp.cumprod(rise, axis=1), xp.cumprod(fall, axis=1)
    weights = xp.concatenate([xp.ones_like(above[:, :1]), above, below], axis=1)
    hits = _clip_hits(xp.concatenate([start, up + 1, down - 1], axis=1), items, relevant, inside)
    return (weights * value(hits)).sum(1) / weights.sum(1)


def maximum_over_hits(
    value: Callable[[Array], Array], items: Array, relevant: Array, inside: Array, *, top_k: int
) -> Array:
    """Returns the largest v(k) over all possible k.

        Going from k to k + 1 adds a precision that grows with k to what v(k) is the mean of, so v
    falls first and rises then: its maximum is at the fewest or at the most relevant items. Both
    occur: [hit, miss | tied hit, miss] at top_k = 3 is best with the miss inside, 1 against 5/6.

    Args:
      value: v, from integers k [Q, 2] to [Q, 2].
      items: Items on the level, [Q].
      relevant: Relevant ones among them, [Q].
      inside: Ranks of the level inside the cut, [Q].
      top_k: Not used: two values are enough for any cut.

    Returns:
      The maximum, [Q].
    """
    del top_k
    xp = items.__array_namespace__()
    return value(xp.stack(_hit_range(items, relevant, inside), axis=1)).max(1)


def maximum_of_wave(
    value: Callable[[Array], Array],
    falls: Callable[[Array], Array],
    items: Array,
    relevant: Array,
    inside: Array,
    *,
    top_k: int,
) -> Array:
    """Returns the largest v(k) of a v that falls, rises and falls again; any part may be missing.

    The maximum is at the fewest relevant items, or where the last fall begins. That place is
    searched on a grid of about sqrt(top_k) values, then on all values next to the best grid point.

    Args:
      value: v, from integers k [Q, grid] to [Q, grid].
      falls: Whether v falls from k on for good, of the same shapes.
      items: Items on the level, [Q].
      relevant: Relevant ones among them, [Q].
      inside: Ranks of the level inside the cut, [Q], at most `top_k`.
      top_k: The cut, for the width of the grid.

    Returns:
      The maximum, [Q].
    """
    xp = items.__array_namespace__()
    fewest, most = (bound[:, None] for bound in _hit_range(items, relevant, inside))
    step = math.isqrt(top_k) + 1
    coarse = xp.minimum(fewest + step * xp.arange(step), most)
    # Once v falls for good it goes on falling, so counting grid points before it locates the place.
    rising = xp.sum(~falls(coarse), axis=1, keepdims=True)
    start = fewest + step * xp.maximum(rising - 1, 0)
    fine = xp.minimum(start + xp.arange(step + 1), most)
    return value(xp.concatenate([fewest, fine], axis=1)).max(1)


def minimum_over_hits(
    value: Callable[[Array], Array], items: Array, relevant: Array, inside: Array, *, top_k: int
) -> Array:
    """Returns the smallest v(k) over all possible k.

    v falls first and then rises (see `maximum_over_hits`), so its minimum can lie anywhere. The
    search takes a grid of about sqrt(top_k) values, then all values next to the best grid point.

    Args:
      value: v, from integers k [Q, grid] to [Q, grid].
      items: Items on the level, [Q].
      relevant: Relevant ones among them, [Q].
      inside: Ranks of the level inside the cut, [Q], at most `top_k`.
      top_k: The cut, for the width of the grid.

    Returns:
      The minimum, [Q].
    """
    xp = items.__array_namespace__()
    fewest, most = (bound[:, None] for bound in _hit_range(items, relevant, inside))
    step = math.isqrt(top_k) + 1
    coarse = xp.minimum(fewest + step * xp.arange(step), most)
    best = fewest + step * xp.argmin(value(coarse), axis=1, keepdims=True)
    fine = xp.clip(best + xp.arange(-step, step + 1), fewest, most)
    return value(fine).min(1)


def _hit_range(items, relevant, inside):
    xp = items.__array_namespace__()
    return xp.maximum(inside - (items - relevant), 0), xp.minimum(relevant, inside)


def _clip_hits(hits, items, relevant, inside):
    xp = items.__array_namespace__()
    return xp.clip(hits, *_hit_range(items, relevant, inside))


# Tie orders: the contribution of a level's items.


class TieOrder(NamedTuple):
    """Functions of one tie order: expected, best or worst order of equal distances.

    Attributes:
      hits: From levels and the ranks of each inside the cut, to the relevant items inside.
      block: From levels and the ranks of each inside the cut, to the sum of the precisions at its
        relevant ranks inside.
      over_hits: From average precision given the hits inside the cut, to one number, see
        `expectation_over_hits`.
    """

    hits: Callable[[Levels, Array], Array]
    block: Callable[[Levels, Array], Array]
    over_hits: Callable[..., Array]


def expected_hits(levels: Levels, inside: Array) -> Array:
    """Returns each level's mean number of relevant items inside the cut over all orders: r p / n.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The means, one per level.
    """
    xp = levels.items.__array_namespace__()
    return inside * (levels.relevant / xp.maximum(levels.items, 1))


def most_hits(levels: Levels, inside: Array) -> Array:
    """Returns each level's largest number of relevant items inside the cut: min(p, r).

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The numbers, one per level.
    """
    xp = levels.items.__array_namespace__()
    return xp.minimum(levels.relevant, inside)


def fewest_hits(levels: Levels, inside: Array) -> Array:
    """Returns each level's smallest number of relevant items inside the cut: max(r - (n - p), 0).

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The numbers, one per level.
    """
    xp = levels.items.__array_namespace__()
    return xp.maximum(inside - (levels.items - levels.relevant), 0)


def expected_block(levels: Levels, inside: Array) -> Array:
    """Averages each level's sum of precisions over all orders of its items.

    p/n sum_{t=1..r} (P0 + 1 + (t - 1) s) / (N0 + t), with s = (p - 1) / (n - 1): rank t is
    relevant with chance p/n, and each of the t - 1 ranks above it then with chance s.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The sums, one per level.

    Reference:
      McSherry & Najork, Computing Information Retrieval Performance Measures Efficiently in the
      Presence of Tied Scores, ECIR 2008; He et al., Hashing as Tie-Aware Learning to Rank, CVPR
      2018.
    """
    xp = levels.items.__array_namespace__()
    share = levels.relevant / xp.maximum(levels.items, 1)
    step = xp.maximum(levels.relevant - 1, 0) / xp.maximum(levels.items - 1, 1)
    first = levels.relevant_before + 1
    return share * ramp_over_ranks(levels.items_before, inside, first=first, step=step)


def best_block(levels: Levels, inside: Array) -> Array:
    """Sums each level's precisions with its relevant items first: sum (P0 + t) / (N0 + t).

    Args:
      levels: The levels, any shape.
      inside: Ranks of each level inside the cut.

    Returns:
      The sums, one per level; min(p, r) terms each.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    hits = most_hits(levels, inside)
    first = levels.relevant_before + 1
    return ramp_over_ranks(levels.items_before, hits, first=first, step=1.0)


def worst_block(levels: Levels, inside: Array) -> Array:
    """Sums each level's precisions with relevant items last: sum (P0 + t) / (N0 + n - p + t).

    Args:
      levels: The levels, any shape.
      inside: Ranks of each level inside the cut.

    Returns:
      The sums, one per level; max(r - (n - p), 0) terms each.

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    misses = levels.items - levels.relevant
    hits = fewest_hits(levels, inside)
    first = levels.relevant_before + 1
    return ramp_over_ranks(levels.items_before + misses, hits, first=first, step=1.0)


def _of_relevant(block):
    """Makes a block function skip, on the host, levels that sum to 0: often most of a ranking."""

    def compressed(levels: Levels, inside: Array) -> Array:
        if not isinstance(inside, np.ndarray):
            return block(levels, inside)
        *parts, inside = np.broadcast_arrays(*levels, inside)
        some = np.flatnonzero((parts[1] > 0) & (inside > 0))
        sums = np.zeros(inside.size)
        sums[some] = block(Levels(*(part.ravel()[some] for part in parts)), inside.ravel()[some])
        return sums.reshape(inside.shape)

    return compressed


TIE_ORDERS = {
    "expected": TieOrder(expected_hits, _of_relevant(expected_block), expectation_over_hits),
    "best": TieOrder(most_hits, _of_relevant(best_block), maximum_over_hits),
    "worst": TieOrder(fewest_hits, _of_relevant(worst_block), minimum_over_hits),
}


_LARGEST_CUT = 2**31 - 1
_COUNTS_AT_ONCE = 2**24


# How a metric runs: arguments are checked, an unreachable cut is dropped, JAX counts are compiled.


def measure_counts(
    metric: Callable[..., Any], counts: Array, top_k: int | None, *options: str
) -> Any:
    """Checks binary counts and runs a metric on them.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      counts: Must be integers [Q, levels, 2].
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
    """Checks distances and relevance, counts them by level, and runs a metric on the counts.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      distances: Must be real numbers [Q, N].
      relevant: Must be bool of the same shape.
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
    """Checks graded counts and runs a metric on them.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      counts: Must be integers [Q, levels, G].
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
    """Checks distances and grades, counts them by level, and runs a metric on the counts.

    Queries go in groups of at most 2^24 counts, so that G counts an item do not fill the memory.

    Args:
      metric: `(counts, top_k, *options) -> values`.
      distances: Must be real numbers [Q, N].
      grades: Must be integers of the same shape.
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
    """Calls a metric; JAX counts run compiled, NumPy counts run as they are.

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
    """Returns the cut, or None if the cut is beyond every query's ranking.

    Args:
      top_k: The cut, or None.
      counts: Items of every kind at every level, [Q, levels, kinds].

    Returns:
      None if the cut excludes no item, else the cut; always the cut for a traced array.
    """
    if top_k is None:
        return None
    if isinstance(counts, Tracer):
        return min(int(top_k), _LARGEST_CUT)
    most = np.asarray(counts).sum((1, 2)).max(initial=0)
    return None if top_k >= most else int(top_k)


def in_float32(values: Any) -> Any:
    """Casts the floating arrays of a pytree to float32, which x64 would make float64."""
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
