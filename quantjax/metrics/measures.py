"""What to measure, as a value: a function of counts, and all that names the number it gives."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quantjax.metrics import checks, identifiers
from quantjax.metrics.harmonic import Array
from quantjax.metrics.ranking import average_precision_from_counts


class Measure(NamedTuple):
    """One metric with its options set; `evaluate` takes any of these.

    Attributes:
      name: What the id begins with, "map" for one.
      of: `(counts, *, ties) -> [Q]`; counts are [Q, levels, 2] items and relevant items, or
        [Q, levels, G] items of each grade.
      top_k: The cut, or None for the whole ranking.
      settings: What else the id says, each "key=value".
      graded: Whether counts come by grade.
      ranks: Whether it looks at ranks; a set of items by distance has no ties.
    """

    name: str
    of: Callable[..., Array]
    top_k: int | None = None
    settings: tuple[str, ...] = ()
    graded: bool = False
    ranks: bool = True

    def id(self, *, distance: str, num_items: int, ties: str = "expected") -> str:
        """Names the number.

        Args:
          distance: What was ranked by: "aqd", "sqd", "float" or "hamming".
          num_items: Items in the database; a cut beyond them is none, and the id says so.
          ties: "expected", "best" or "worst".

        Returns:
          The id, for example `map@5000|ties=expected|den=capped|zero=0|dist=aqd`; `map@all(5000)`
          for a cut at 5,000 of fewer items.

        Raises:
          ValueError: if an argument is none of the above.
        """
        identifiers.check_choice("distance", distance, identifiers.DISTANCES)
        identifiers.check_choice("ties", ties, identifiers.TIES)
        head = self.name
        if self.ranks:
            cut = "all" if self.top_k is None else str(self.top_k)
            clipped = self.top_k is not None and self.top_k > num_items
            head = f"{head}@all({cut})" if clipped else f"{head}@{cut}"
        tied = (f"ties={ties}",) if self.ranks else ()
        return "|".join((head, *tied, *self.settings, "zero=0", f"dist={distance}"))

    def chance(self, totals: np.ndarray) -> np.ndarray:
        """Computes what a random ranking is expected to get.

        Args:
          totals: Items and relevant items of the database, [Q, 2], or items by grade, [Q, G].

        Returns:
          The chance level of every query, [Q] float64; NaN for a set, whose size chance has not.
        """
        if not self.ranks:
            return np.full(len(totals), np.nan)
        return np.asarray(self.of(totals[:, None], ties="expected"))


def mean_average_precision(*, top_k: int | None = None, denominator: str = "capped") -> Measure:
    """Measures average precision, see `metrics.average_precision`.

    >>> mean_average_precision(top_k=5000).id(distance="aqd", num_items=54_000)
    'map@5000|ties=expected|den=capped|zero=0|dist=aqd'

    Args:
      top_k: The cut; None ranks the whole database.
      denominator: "hits", "capped" or "all".

    Returns:
      The measure.

    Raises:
      ValueError: if an option is unknown.
    """
    checks.check_options(top_k, denominator, "expected")
    of = functools.partial(average_precision_from_counts, top_k=top_k, denominator=denominator)
    return Measure("map", of, top_k, (f"den={denominator}",))
