"""Measures: a metric with fixed options and an id, to be passed to `evaluate`.

A custom measure is a `Measure` with a function of counts.

>>> average_precision(top_k=5000).id(distance="aqd", num_items=54_000)
'map@5000|ties=expected|den=capped|zero=0|dist=aqd'
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quantjax.metrics import at_k, curves, graded, ranking, running
from quantjax.metrics.rank_sums import Array

DISTANCES = ("aqd", "sqd", "float", "hamming", "own")
_ZERO = "zero=0"  # what a query without a relevant item counts as


class Measure(NamedTuple):
    """A metric with fixed options, whose mean over the queries has an id.

    Attributes:
      name: Start of the id, such as "map".
      of: `(counts, *, ties) -> [Q]`; counts are [Q, levels, 2] items and relevant items, or
        [Q, levels, G] items of each grade.
      settings: Further parts of the id, each "key=value".
      top_k: The cut, None for the whole ranking, or "no" where none can be set.
      graded: Whether counts come by grade.
      ranked: Whether it looks at ranks; a set of items within a distance has no ties, and needs
        integer distances.
    """

    name: str
    of: Callable[..., Array]
    settings: tuple[str, ...] = ()
    top_k: int | str | None = "no"
    graded: bool = False
    ranked: bool = True

    def id(self, *, distance: str, num_items: int, ties: str = "expected") -> str:
        """Returns the id of this measure's number, with cut, ties, options and distance.

        Args:
          distance: Distance of the ranking: "aqd", "sqd", "float", "hamming" or "own".
          num_items: Items in the database; a cut beyond them is marked as no cut in the id.
          ties: "expected", "best" or "worst".

        Returns:
          The id, for example `map@5000|ties=expected|den=capped|zero=0|dist=aqd`; `map@all(5000)`
          for a cut at 5,000 of fewer items.

        Raises:
          ValueError: if an argument is none of the above.
        """
        running.check_choice("distance", distance, DISTANCES)
        running.check_choice("ties", ties, running.TIES)
        tied = (f"ties={ties}",) if self.ranked else ()
        head = self.name + self._cut(num_items)
        return "|".join((head, *tied, *self.settings, f"dist={distance}"))

    def chance(self, totals: np.ndarray) -> np.ndarray:
        """Returns the chance level: each query's expected value for a random ranking.

        Args:
          totals: Items and relevant items of the database, [Q, 2], or items by grade, [Q, G].

        Returns:
          The chance level of every query, [Q] float64; NaN for a set of items within a distance,
            because a random ranking has no such set.
        """
        if not self.ranked:
            return np.full(len(totals), np.nan)
        return np.asarray(self.of(totals[:, None], ties="expected"))

    def _cut(self, num_items):
        if self.top_k == "no":
            return ""
        if self.top_k is None:
            return "@all"
        # A cut that cuts nothing is named as such: numbers at @5000 of 3,000 items would mislead.
        return f"@all({self.top_k})" if self.top_k > num_items else f"@{self.top_k}"


def average_precision(*, top_k: int | None = None, denominator: str = "capped") -> Measure:
    """Returns the measure of mean average precision, map@K, see `metrics.average_precision`.

    Args:
      top_k: The cut, here and below; None ranks the whole database.
      denominator: "hits", "capped" or "all".

    Raises:
      ValueError: if an option is unknown, here and below.
    """
    return _divided("map", ranking.average_precision_from_counts, top_k, denominator)


def precision(*, top_k: int | None) -> Measure:
    """Returns the measure of mean precision, p@K, see `metrics.precision`."""
    return _cut_at("p", at_k.precision_from_counts, top_k)


def recall(*, top_k: int | None) -> Measure:
    """Returns the measure of mean recall, r@K, see `metrics.recall`."""
    return _cut_at("r", at_k.recall_from_counts, top_k)


def hit_rate(*, top_k: int | None) -> Measure:
    """Returns the measure of hit rate, hit@K, see `metrics.hit_rate`."""
    return _cut_at("hit", at_k.hit_rate_from_counts, top_k)


def reciprocal_rank(*, top_k: int | None = None) -> Measure:
    """Returns the measure of mean reciprocal rank, mrr@K, see `metrics.reciprocal_rank`."""
    return _cut_at("mrr", at_k.reciprocal_rank_from_counts, top_k)


def r_precision() -> Measure:
    """Returns the measure of mean R-precision, see `metrics.r_precision`."""
    return Measure("rprec", at_k.r_precision_from_counts, (_ZERO,))


def average_precision_at_r() -> Measure:
    """Returns the measure of MAP@R, map@R, see `metrics.average_precision_at_r`."""
    return Measure("map@R", ranking.average_precision_at_r_from_counts, (_ZERO,))


def ndcg(*, top_k: int | None = None) -> Measure:
    """Returns the measure of mean NDCG by shared labels, ndcg@K, see `metrics.ndcg`."""
    return _cut_at("ndcg", graded.ndcg_from_counts, top_k, graded=True)


def acg(*, top_k: int | None) -> Measure:
    """Returns the measure of the mean number of shared labels, acg@K, see `metrics.acg`."""
    return _cut_at("acg", graded.acg_from_counts, top_k, graded=True)


def wap(*, top_k: int | None = None, denominator: str = "capped") -> Measure:
    """Returns the measure of mean weighted average precision, wap@K, see `metrics.wap`.

    Args:
      top_k: The cut.
      denominator: "hits", "capped" or "all".
    """
    return _divided("wap", graded.wap_from_counts, top_k, denominator, graded=True)


def precision_within_radius(*, radius: int) -> Measure:
    """Returns the measure of mean precision within a Hamming radius, p<=r; an empty ball is 0.

    Args:
      radius: Bits that may differ, here and below.
    """
    return _within("p", radius, lambda ball: ball.value, ("empty=0", _ZERO))


def empty_balls(*, radius: int) -> Measure:
    """Returns the measure of the share of queries with an empty Hamming ball, empty<=r."""
    return _within("empty", radius, lambda ball: 1.0 * ball.empty, ())


def _cut_at(name, of, top_k, *, graded=False):
    running.check_cut(top_k)
    return Measure(name, functools.partial(of, top_k=top_k), (_ZERO,), top_k, graded)


def _divided(name, of, top_k, denominator, *, graded=False):
    running.check_choice("denominator", denominator, running.DENOMINATORS)
    measure = _cut_at(name, functools.partial(of, denominator=denominator), top_k, graded=graded)
    return measure._replace(settings=(f"den={denominator}", _ZERO))


def _within(name, radius, part, settings):
    def of(counts, *, ties):
        del ties
        return part(curves.precision_within_radius_from_counts(counts, radius=radius))

    # Checks the radius now, and not at the end of a training run.
    of(np.zeros((0, 1, 2), np.int64), ties="expected")
    return Measure(f"{name}<={radius}", of, settings, ranked=False)
