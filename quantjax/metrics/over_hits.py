"""Averages or bounds a value over the hits inside a cut that divides a level of ties.

The number k of that level's relevant items inside the cut is then open, and so is the denominator
of a mean over hits. v(k) is average precision, or its weighted form, given k. Each function reduces
v over all possible k: `inside` ranks drawn from `items`, of which `relevant` are relevant.
"""

import math
from collections.abc import Callable

from quantjax.metrics.rank_sums import Array

_REACH = 5.0  # in units of sqrt(top_k), which is two standard deviations of k or more


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
    # Relative to the weight of the mean, so that none underflows: divided by their sum.
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
