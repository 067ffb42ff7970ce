"""Weighted average precision over the hits inside a cut that goes through a level of ties.

As in `cut.py`: how many relevant items of that level fall inside, k, is open, and v(k) is the
weighted average precision given k. Which of them fall inside is open as well, and their order.
"""

from typing import NamedTuple

from quantjax.metrics import cut
from quantjax.metrics.graded import (
    GradedLevels,
    grade_values,
    graded_block,
    levels_with_before,
)
from quantjax.metrics.harmonic import Array


class OpenLevel(NamedTuple):
    """The level that the cut goes through; all numbers are 0 where it goes between two.

    Attributes:
      nearer: Sum of ACG over the relevant ranks before the level, [Q, 1].
      hits: Relevant items before it, [Q, 1].
      whole: The level with what stands before it, [Q, 1] each.
      counts: Its items of each grade, [Q, G].
      inside: Its ranks inside the cut, [Q].
    """

    nearer: Array
    hits: Array
    whole: GradedLevels
    counts: Array
    inside: Array


def expected_over_hits(level: OpenLevel, *, top_k: int) -> Array:
    """Averages v(k): k of the relevant items, drawn evenly, stand anywhere on the ranks inside.

    Args:
      level: The level.
      top_k: The cut.

    Returns:
      The mean, [Q].
    """
    whole, inside = level.whole, level.inside[:, None]
    xp = inside.__array_namespace__()
    mean = whole.grades / xp.maximum(whole.relevant, 1)

    def value(hits: Array) -> Array:
        drawn = whole._replace(items=inside, relevant=hits, grades=hits * mean)
        return _quotient(level, graded_block(drawn, inside), hits)

    return cut.expectation(value, *_draw(level), top_k=top_k)


def largest_over_hits(level: OpenLevel, *, top_k: int) -> Array:
    """Finds the largest v(k), with the k highest grades first, by falling grade.

    Going from k to k + 1 adds c(k + 1), the mean grade down to rank N0 + k + 1, to what v(k) is
    the mean of. Grades fall, so c rises as long as they are above it and falls from then on. While
    it rises v falls, then rises; while it falls v rises, then falls, and goes on falling.

    Args:
      level: The level.
      top_k: The cut.

    Returns:
      The largest value, [Q].
    """
    highest_first = level.counts[:, :0:-1]
    grades = grade_values(level.counts)[:0:-1]
    whole = level.whole

    def value(hits: Array) -> Array:
        taken = _take(highest_first, hits)
        block = _run_of_grades(taken, grades, whole.items_before, whole.grades_before)
        return _quotient(level, block, hits)

    def added(hits: Array) -> Array:
        xp = hits.__array_namespace__()
        grade_sum = whole.grades_before + (_take(highest_first, hits) * grades).sum(-1)
        return grade_sum / xp.maximum(whole.items_before + hits, 1)

    def falls(hits: Array) -> Array:
        further = added(hits + 1)
        return (further <= added(hits)) & (further <= value(hits))

    return cut.maximum_of_wave(value, falls, *_draw(level), top_k=top_k)


def smallest_over_hits(level: OpenLevel, *, top_k: int) -> Array:
    """Finds the smallest v(k), with the k lowest grades last, by rising grade.

    Going from k to k + 1 adds sum_{j=0..k} g_{k+1-j} / (m - j) + G0 / (m - k) to the sum of v(k),
    with g_1 <= g_2 <= ... the grades and m the cut. That grows with k, so v falls first and rises
    then, as `cut.minimum` asks.

    Args:
      level: The level.
      top_k: The cut.

    Returns:
      The smallest value, [Q].
    """
    lowest_first = level.counts[:, 1:]
    grades = grade_values(level.counts)[1:]
    whole, inside = level.whole, level.inside[:, None]

    def value(hits: Array) -> Array:
        taken = _take(lowest_first, hits)
        offset = whole.items_before + inside - hits
        block = _run_of_grades(taken, grades, offset, whole.grades_before)
        return _quotient(level, block, hits)

    return cut.minimum(value, *_draw(level), top_k=top_k)


def _draw(level):
    return level.whole.items[:, 0], level.whole.relevant[:, 0], level.inside


def _quotient(level, block, hits):
    xp = hits.__array_namespace__()
    return (level.nearer + block) / xp.maximum(level.hits + hits, 1)


def _take(counts, hits):
    # The first k of items that stand by grade [Q, G], for k [Q, W]: how many of each, [Q, W, G].
    xp = counts.__array_namespace__()
    before = xp.cumsum(counts, axis=1, dtype=counts.dtype) - counts
    return xp.clip(hits[..., None] - before[:, None], 0, counts[:, None])


def _run_of_grades(taken, grades, offset, grades_before):
    levels = levels_with_before(taken, taken, taken * grades)
    levels = levels._replace(
        items_before=levels.items_before + offset[..., None],
        grades_before=levels.grades_before + grades_before[..., None],
    )
    return graded_block(levels, taken).sum(-1)


OVER_HITS = {
    "expected": expected_over_hits,
    "best": largest_over_hits,
    "worst": smallest_over_hits,
}
