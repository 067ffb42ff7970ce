"""Represents a ranking by counts of items at each distance, without choosing an order of ties.

A level is all items at one distance of a query. Counts are made by one sort per row and hold all
that an exact metric needs. Every function is written once for NumPy and JAX arrays, apart from
those that sort.

A cut may divide a level. The number k of that level's relevant items inside the cut (its hits) then
depends on the order of ties, and so does the denominator of a mean over hits. v(k) is average
precision, or its weighted form, given k. The functions `..._over_hits` reduce v over all possible
k: `inside` items are drawn from the level's `items`, of which `relevant` are relevant.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.metrics.rank_sums import Array

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


HITS: dict[str, Callable[[Levels, Array], Array]] = {
    "expected": expected_hits,
    "best": most_hits,
    "worst": fewest_hits,
}
"""Relevant items inside the cut by tie order, from levels and the ranks of each inside the cut."""


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
    fits = not is_float or distances.dtype.itemsize <= floats_of_jax.itemsize
    if isinstance(distances, jax.Array) or fits:
        return jnp.asarray(distances)
    with np.errstate(over="ignore"):
        rounded = distances.astype(floats_of_jax)
    # Hamming distances, and multiples of 1/2, pass as they are: ranking on the host costs a sort.
    return jnp.asarray(rounded if np.array_equal(rounded, distances) else dense_ranks(distances))


def dense_ranks(distances: np.ndarray) -> np.ndarray:
    """Ranks the distinct distances of each row 0, 1, 2, ... from the nearest, on the host.

    Args:
      distances: [Q, N] real numbers without NaN; -0.0 equals 0.0.

    Returns:
      Ranks [Q, N] int32; equal distances have equal ranks.
    """
    ranks = np.zeros(distances.shape, np.int32)
    # NumPy sorts row by row, so that tiles of rows cost no time.
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
    return _count_at_ends(distances, jnp.stack([jnp.ones_like(relevant), relevant], axis=-1))


def graded_counts_from_distances(
    distances: jax.Array, grades: jax.Array, *, num_grades: int
) -> jax.Array:
    """Counts the items of each grade at each distance, by one sort per row.

    Graded counts hold at [q, level, g] how many items of that level have grade g for query q;
    levels stand nearest first, and grade 0 means not relevant. The grade of an item is the number
    of labels it shares with the query. With two grades, `counts[..., 1]` are the relevant items and
    `counts[..., 0]` the others, whereas binary counts have all items in `counts[..., 0]`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; -0.0 equals 0.0.
      grades: Grade of the item for the query, [Q, N] integers from 0 to `num_grades` - 1; others
        are not counted.
      num_grades: G.

    Returns:
      Counts [Q, N, G] int32, nearest level first, placed as by `counts_from_distances`.
    """
    distances, grades = jax.lax.sort((distances, grades), num_keys=1, is_stable=False)
    # [Q, N, G]: `measure_grades` takes few enough queries at a time.
    return _count_at_ends(distances, grades[..., None] == jnp.arange(num_grades, dtype=jnp.int32))


def _count_at_ends(distances, flags):
    changes = (distances[:, 1:] != distances[:, :-1])[..., None]
    edge = jnp.ones_like(distances[:, :1, None], dtype=bool)
    begins = jnp.concatenate([edge, changes], axis=1)
    ends = jnp.concatenate([changes, edge], axis=1)
    flags = flags.astype(jnp.int32)
    through = jnp.cumsum(flags, axis=1, dtype=jnp.int32)
    # Cumulative counts never fall, so a running maximum carries the last level's start along.
    before = jax.lax.cummax(jnp.where(begins, through - flags, 0), axis=1)
    return jnp.where(ends, through - before, 0)


_REACH = 5.0  # in units of sqrt(top_k); two standard deviations of k are at most one unit


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
    outside = items - relevant - inside  # plus k, the irrelevant items outside the cut
    mean = inside * (relevant / xp.maximum(items, 1))
    start = _clip_hits(xp.round(mean).astype(items.dtype), items, relevant, inside)
    steps = xp.arange(min(top_k, math.ceil(_REACH * math.sqrt(top_k))))
    up, down = start + steps, start - steps
    # Ratios of neighbouring weights: 0 from the last possible k on. They are clipped at 0, because
    # a product of many negative ratios could overflow before the 0 is multiplied in.
    rise = xp.maximum(relevant - up, 0) / (up + 1)
    rise = rise * (xp.maximum(inside - up, 0) / (outside + up + 1))
    fall = xp.maximum(down, 0) / (relevant - down + 1)
    fall = fall * (xp.maximum(outside + down, 0) / (inside - down + 1))
    above, below = xp.cumprod(rise, axis=1), xp.cumprod(fall, axis=1)
    weights = xp.concatenate([xp.ones_like(above[:, :1]), above, below], axis=1)
    hits = _clip_hits(xp.concatenate([start, up + 1, down - 1], axis=1), items, relevant, inside)
    # Relative to the weight of the mean, so that none underflows: divided by their sum.
    return (weights * value(hits)).sum(1) / weights.sum(1)


def maximum_over_hits(
    value: Callable[[Array], Array], items: Array, relevant: Array, inside: Array, *, top_k: int
) -> Array:
    """Returns the largest v(k) over all possible k.

    v(k) is a mean of precisions, one for each hit. A further hit adds a precision, and the added
    precision grows with k. So v falls first and then rises, and its maximum is at the fewest or at
    the most relevant items. It can be at the fewest: for a hit, a miss, and then a tied hit and
    miss, at top_k = 3 v is 1 with the tied miss inside and 5/6 with the tied hit inside.

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
    # `falls` never returns to False, so the number of False grid points locates the last fall.
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
    # Falling, then rising: the minimum is less than a step away from the best grid point.
    best = fewest + step * xp.argmin(value(coarse), axis=1, keepdims=True)
    fine = xp.clip(best + xp.arange(-step, step + 1), fewest, most)
    return value(fine).min(1)


def _hit_range(items, relevant, inside):
    xp = items.__array_namespace__()
    return xp.maximum(inside - (items - relevant), 0), xp.minimum(relevant, inside)


def _clip_hits(hits, items, relevant, inside):
    xp = items.__array_namespace__()
    return xp.clip(hits, *_hit_range(items, relevant, inside))


OVER_HITS: dict[str, Callable[..., Array]] = {
    "expected": expectation_over_hits,
    "best": maximum_over_hits,
    "worst": minimum_over_hits,
}
"""Reductions of v(k) over the possible numbers of hits, by tie order."""
