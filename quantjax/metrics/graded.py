"""NDCG, average cumulative gain and weighted average precision, for graded relevance."""

from typing import NamedTuple

import jax
import numpy as np

from quantjax.metrics.levels import (
    expectation_over_hits,
    maximum_of_wave,
    minimum_over_hits,
    ranks_inside,
)
from quantjax.metrics.rank_sums import Array, discount_sums, ramp_over_ranks, sum_over_levels
from quantjax.metrics.running import (
    DENOMINATORS,
    check_choice,
    measure_graded_counts,
    measure_grades,
)


class GradedLevels(NamedTuple):
    """Levels of equal distance, or parts of levels, each with the totals of all levels before it.

    Attributes:
      items: Items on the level, n, integers of any common shape whose last axis is the levels.
      relevant: Those of grade 1 or more, p.
      grades: Sum of the grades, G.
      items_before: Items before the level, N0.
      relevant_before: Relevant items before it, P0.
      grades_before: Sum of the grades before it, G0.
    """

    items: Array
    relevant: Array
    grades: Array
    items_before: Array
    relevant_before: Array
    grades_before: Array


def graded_levels(counts: Array, ties: str) -> GradedLevels:
    """Sums graded counts to levels of equal distance.

    Args:
      counts: Items of each grade at every level, integers [Q, levels, G].
      ties: "expected" for one level per distance, "best" and "worst" for one per distance and
        grade.

    Returns:
      The levels, [Q, levels] or [Q, levels * G].
    """
    grade = grade_values(counts)
    parts = (arrange(part, ties) for part in (counts, counts * (grade > 0), counts * grade))
    return levels_with_before(*parts)


def levels_with_before(items: Array, relevant: Array, grades: Array) -> GradedLevels:
    """Adds to every level the totals of all levels before it.

    Args:
      items: Items on the level, integers [..., levels].
      relevant: Relevant ones among them.
      grades: Sum of their grades.

    Returns:
      The levels, in the order given.
    """
    xp = items.__array_namespace__()
    parts = items, relevant, grades
    before = (xp.cumsum(part, axis=-1, dtype=part.dtype) - part for part in parts)
    return GradedLevels(*parts, *before)


def arrange(parts: Array, ties: str) -> Array:
    """Orders the per-grade contributions of each level as the tie order ranks them.

    Args:
      parts: One number per grade, [Q, levels, G].
      ties: "expected" adds the grades up, "best" puts the highest first, "worst" the lowest.

    Returns:
      [Q, levels], or [Q, levels * G].
    """
    if ties == "expected":
        return parts.sum(-1)
    # In the best or worst order a level falls apart into one level for each grade.
    num_queries, num_levels, num_grades = parts.shape
    by_grade = parts[..., ::-1] if ties == "best" else parts
    return by_grade.reshape(num_queries, num_levels * num_grades)


def grade_values(counts: Array) -> Array:
    """Returns all grades, 0 to G - 1.

    Args:
      counts: Graded counts, [..., G].

    Returns:
      0..G-1, in the type of `counts`.
    """
    xp = counts.__array_namespace__()
    return xp.arange(counts.shape[-1], dtype=counts.dtype)


def graded_block(levels: GradedLevels, inside: Array) -> Array:
    """Averages a level's sum of ACG at its relevant ranks over all orders of its items.

    p/n sum_{t=1..r} (G0 + g + (t - 1) g s) / (N0 + t), with g = G/p the mean grade of the relevant
    and s = (p - 1) / (n - 1): rank t is relevant with chance p/n and has grade g then, as has each
    of the t - 1 ranks above it with chance s.

    Args:
      levels: The levels, any shape.
      inside: r, ranks of each level inside the cut, 0 to n.

    Returns:
      The sums, one per level.
    """
    xp = inside.__array_namespace__()
    share = levels.relevant / xp.maximum(levels.items, 1)
    mean = levels.grades / xp.maximum(levels.relevant, 1)
    step = mean * (xp.maximum(levels.relevant - 1, 0) / xp.maximum(levels.items - 1, 1))
    # Levels that add nothing get no ranks: `ramp_over_ranks` needs a first value above its step.
    inside = xp.where(levels.relevant > 0, inside, 0)
    first = levels.grades_before + mean
    return share * ramp_over_ranks(levels.items_before, inside, first=first, step=step)


def ndcg(
    distances: Array,
    grades: Array,
    *,
    num_grades: int,
    top_k: int | None = None,
    ties: str = "expected",
) -> jax.Array:
    """Returns NDCG@K: the discounted cumulative gain divided by the ideal ranking's.

    DCG@K = sum_{i=1..K} (2^grade_i - 1) / log2(i + 1), divided by that of all items by falling
    grade, cut at the same K.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, ranks all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      NDCG of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: if shapes or types do not agree, a grade is not below `num_grades`, an option is
        unknown, or a distance is NaN (values inside jit are not seen).

    Reference:
      Jarvelin & Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, with the
      gain of Burges et al., Learning to Rank using Gradient Descent, ICML 2005; ties by McSherry &
      Najork, ECIR 2008.
    """
    return measure_grades(_ndcg, distances, grades, num_grades, top_k, ties)


def ndcg_from_counts(counts: Array, *, top_k: int | None = None, ties: str = "expected") -> Array:
    """Returns `ndcg`, computed from counts of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level of distance, nearest level first, integers
        [Q, levels, G]; empty levels may stand anywhere.
      top_k: K, or None for all items.
      ties: "expected", "best" or "worst".

    Returns:
      NDCG of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: if `counts` is not integer [Q, levels, G], holds a negative number, or an option
        is unknown.
    """
    return measure_graded_counts(_ndcg, counts, top_k, ties)


def acg(
    distances: Array, grades: Array, *, num_grades: int, top_k: int | None, ties: str = "expected"
) -> jax.Array:
    """Returns average cumulative gain, ACG@K: the mean grade of the first K items.

    ACG@K = sum_{i=1..K} grade_i / min(K, N), with `min` as in `precision`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, takes all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Average cumulative gain of every query, [Q] float32, in labels; 0 where nothing is relevant.

    Raises:
      ValueError: as `ndcg`.

    Reference:
      Zhao et al., Deep Semantic Ranking Based Hashing for Multi-Label Image Retrieval, CVPR 2015;
      Jarvelin & Kekalainen, IR Evaluation Methods for Retrieving Highly Relevant Documents, SIGIR
      2000.
    """
    return measure_grades(_acg, distances, grades, num_grades, top_k, ties)


def acg_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Returns `acg`, computed from counts of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level, integers [Q, levels, G].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      Average cumulative gain of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `ndcg_from_counts`.
    """
    return measure_graded_counts(_acg, counts, top_k, ties)


def _ndcg(counts, top_k, ties):
    xp = counts.__array_namespace__()
    # The ideal ranking is all items as a single level in its best order.
    ideal = _discounted(counts.sum(1, keepdims=True), top_k, "best")
    gained = _discounted(counts, top_k, ties)
    return xp.where(ideal > 0, gained / xp.where(ideal > 0, ideal, 1.0), 0.0)


def _discounted(counts, top_k, ties):
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, ties)
    gain = xp.asarray(2.0 ** np.arange(counts.shape[-1]) - 1.0, dtype=float)
    gains = arrange(counts * gain, ties)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    # Without gain a level need not be summed, which saves NumPy most of a ranking.
    discounts = discount_sums(levels.items_before, xp.where(gains > 0, inside, 0))
    return sum_over_levels(gains / xp.maximum(levels.items, 1) * discounts)


def _acg(counts, top_k, ties):
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, ties)
    items = counts.sum((1, 2))
    shown = items if top_k is None else xp.minimum(items, top_k)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    mean_grade = levels.grades / xp.maximum(levels.items, 1)
    return sum_over_levels(mean_grade * inside) / xp.maximum(shown, 1)


# Weighted average precision over the hits inside a cut that goes through a level of ties. As in
# `expectation_over_hits`: how many relevant items of that level fall inside, k, is open, and v(k)
# is the value given k. Which of them fall inside is open as well, and their order.


class OpenLevel(NamedTuple):
    """The level that the cut divides; all numbers are 0 if the cut falls between two levels.

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
    """Averages v(k) over all orders of the level: k random relevant items at random ranks inside.

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
        # Any k relevant items are drawn alike: their grades sum to k times the mean on average.
        drawn = whole._replace(items=inside, relevant=hits, grades=hits * mean)
        return _quotient(level, graded_block(drawn, inside), hits)

    return expectation_over_hits(value, *_draw(level), top_k=top_k)


def largest_over_hits(level: OpenLevel, *, top_k: int) -> Array:
    """Returns the largest v(k), with the k highest grades first, by falling grade.

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

    return maximum_of_wave(value, falls, *_draw(level), top_k=top_k)


def smallest_over_hits(level: OpenLevel, *, top_k: int) -> Array:
    """Returns the smallest v(k), with the k lowest grades last, by rising grade.

    Going from k to k + 1 adds sum_{j=0..k} g_{k+1-j} / (m - j) + G0 / (m - k) to the sum of v(k),
    with g_1 <= g_2 <= ... the grades and m the cut. That grows with k, so v falls first and rises
    then, as `minimum_over_hits` asks.

    Args:
      level: The level.
      top_k: The cut.

    Returns:
      The smallest value, [Q].
    """
    # Grade 0 is not relevant and takes no part in v.
    lowest_first = level.counts[:, 1:]
    grades = grade_values(level.counts)[1:]
    whole, inside = level.whole, level.inside[:, None]

    def value(hits: Array) -> Array:
        taken = _take(lowest_first, hits)
        # Irrelevant items fill the ranks inside before the k relevant ones.
        offset = whole.items_before + inside - hits
        block = _run_of_grades(taken, grades, offset, whole.grades_before)
        return _quotient(level, block, hits)

    return minimum_over_hits(value, *_draw(level), top_k=top_k)


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
    # Each grade is a level of its own here, because a tie order other than the mean sorts by grade.
    levels = levels_with_before(taken, taken, taken * grades)
    levels = levels._replace(
        items_before=levels.items_before + offset[..., None],
        grades_before=levels.grades_before + grades_before[..., None],
    )
    return graded_block(levels, taken).sum(-1)


OVER_HITS = {"expected": expected_over_hits, "best": largest_over_hits, "worst": smallest_over_hits}


def wap(
    distances: Array,
    grades: Array,
    *,
    num_grades: int,
    top_k: int | None = None,
    denominator: str = "capped",
    ties: str = "expected",
) -> jax.Array:
    """Returns weighted average precision: the average of ACG at each relevant rank.

    WAP@K = sum of ACG@i over the relevant ranks i up to K, divided by a named denominator. With
    grades 0 and 1 it is `average_precision`. Papers divide by the hits; the default is the
    denominator of `average_precision`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers; 0 is not relevant.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, ranks all items.
      denominator: "hits" (relevant items inside the cut), "capped" (min(K, relevant items)) or
        "all" (relevant items).
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Weighted average precision of every query, [Q] float32, in labels; 0 where nothing is
      relevant.

    Raises:
      ValueError: as `ndcg`.

    Reference:
      Zhao et al., Deep Semantic Ranking Based Hashing for Multi-Label Image Retrieval, CVPR 2015.
    """
    check_choice("denominator", denominator, DENOMINATORS)
    return measure_grades(_wap, distances, grades, num_grades, top_k, ties, denominator)


def wap_from_counts(
    counts: Array, *, top_k: int | None = None, denominator: str = "capped", ties: str = "expected"
) -> Array:
    """Returns `wap`, computed from counts of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level, integers [Q, levels, G].
      top_k: K, or None for all items. "hits" takes memory for about 10 G sqrt(K) values a query.
      denominator: "hits", "capped" or "all", as in `wap`.
      ties: "expected", "best" or "worst".

    Returns:
      Weighted average precision of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `ndcg_from_counts`.
    """
    check_choice("denominator", denominator, DENOMINATORS)
    return measure_graded_counts(_wap, counts, top_k, ties, denominator)


def _wap(counts, top_k, ties, denominator):
    # Without a cut all relevant items are hits. With a cut, ties on it leave the number open.
    if denominator == "hits" and top_k is not None:
        return _divide_by_hits(counts, top_k, ties)
    xp = counts.__array_namespace__()
    due = counts[..., 1:].sum((1, 2))
    if denominator == "capped" and top_k is not None:
        due = xp.minimum(due, top_k)
    return _block_sum(counts, top_k, ties) / xp.maximum(due, 1)


def _block_sum(counts, top_k, ties):
    levels = graded_levels(counts, ties)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    return sum_over_levels(graded_block(levels, inside))


def _divide_by_hits(counts: Array, top_k: int, ties: str) -> Array:
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, "expected")
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    whole = inside == levels.items
    nearer_counts = xp.where(whole[..., None], counts, 0)
    # At most one level is divided by the cut; the sums below pick it, or zeros if none is.
    crossing = (inside > 0) & ~whole
    level = OpenLevel(
        nearer=_block_sum(nearer_counts, None, ties)[:, None],
        hits=nearer_counts[..., 1:].sum((1, 2))[:, None],
        whole=GradedLevels(*(xp.where(crossing, part, 0).sum(1)[:, None] for part in levels)),
        counts=xp.where(crossing[..., None], counts, 0).sum(1),
        inside=xp.where(crossing, inside, 0).sum(1),
    )
    return OVER_HITS[ties](level, top_k=top_k)
