"""Levels of items with grades, and what a tie order makes of them.

For a fixed denominator the best order of a level is by falling grade and the worst by rising
grade: exchanging two neighbours in the wrong order never lowers, or never raises, any of the
metrics here. A level in such an order is a run of levels of one grade each, without ties that
matter, so one formula, the expectation, serves all three orders.
"""

from typing import NamedTuple

import numpy as np

from quantjax.metrics.harmonic import Array, ramp_over_ranks


class GradedLevels(NamedTuple):
    """Levels of equal distance, or parts of them, each with what stands before it.

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
    """Sums graded counts into levels.

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
    """Adds to every level what stands before it.

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
    """Puts what the grades of each level contribute into the order of the ranking.

    Args:
      parts: One number per grade, [Q, levels, G].
      ties: "expected" adds the grades up, "best" puts the highest first, "worst" the lowest.

    Returns:
      [Q, levels], or [Q, levels * G].
    """
    return _ARRANGEMENTS[ties](parts)


def grade_values(counts: Array) -> Array:
    """Lists the grades.

    Args:
      counts: Graded counts, [..., G].

    Returns:
      0..G-1, in the type of `counts`.
    """
    xp = counts.__array_namespace__()
    return xp.arange(counts.shape[-1], dtype=counts.dtype)


def gain_values(counts: Array) -> Array:
    """Lists the gains of the grades, 2^grade - 1.

    Args:
      counts: Graded counts, [..., G].

    Returns:
      The gains, [G], float64 for NumPy counts and JAX's default float for JAX counts.
    """
    xp = counts.__array_namespace__()
    return xp.asarray(2.0 ** np.arange(counts.shape[-1]) - 1.0, dtype=float)


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
    inside = xp.where(levels.relevant > 0, inside, 0)
    first = levels.grades_before + mean
    return share * ramp_over_ranks(levels.items_before, inside, first=first, step=step)


def _together(parts: Array) -> Array:
    return parts.sum(-1)


def _highest_first(parts: Array) -> Array:
    return _lowest_first(parts[..., ::-1])


def _lowest_first(parts: Array) -> Array:
    num_queries, num_levels, num_grades = parts.shape
    return parts.reshape(num_queries, num_levels * num_grades)


_ARRANGEMENTS = {"expected": _together, "best": _highest_first, "worst": _lowest_first}
