"""Bootstrap intervals of means over queries, and paired comparisons of two results."""

from typing import NamedTuple

import numpy as np

from quantjax.errors import InputError
from quantjax.evaluate.results import Results

_AT_ONCE = 1 << 22  # values resampled at once


def resampled_means(values: np.ndarray, *, num_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Returns bootstrap means: the mean of Q queries drawn with replacement, R times.

    Args:
      values: One per query, [Q]; their order has no effect.
      num_resamples: R.
      seed: Seed of the draws.

    Returns:
      The means, [R] float64.

    Reference:
      Efron, Bootstrap Methods: Another Look at the Jackknife, The Annals of Statistics 7(1), 1979.
    """
    # Sorted, so that the interval does not depend on the order of the queries.
    values = np.sort(np.asarray(values, np.float64))
    # In parts: all draws of a large set at once would not fit into memory.
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, num_resamples, step := max(1, _AT_ONCE // len(values))):
        drawn = rng.integers(0, len(values), (min(step, num_resamples - start), len(values)))
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the lower and upper end of the bootstrap interval of the mean.

    Args:
      values: One per query, [Q].
      level: Share of the resamples between the ends.
      num_resamples: Number of resamples.
      seed: Seed of the draws.

    Returns:
      Both ends; NaN for a single query, which cannot be resampled.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    means = resampled_means(values, num_resamples=num_resamples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def randomization_p_value(
    differences: np.ndarray, *, num_resamples: int = 10_000, seed: int = 0
) -> float:
    """Returns the p-value of a randomization test that the mean difference is 0.

    The p-value is the share of random sign flips whose mean is at least as far from 0.

    Args:
      differences: One per query, [Q].
      num_resamples: Number of draws of signs; the observed signs count as one more draw.
      seed: Seed of the draws.

    Returns:
      From 1 / (num_resamples + 1) to 1.

    Reference:
      Smucker et al., A Comparison of Statistical Significance Tests for Information Retrieval
      Evaluation, CIKM 2007.
    """
    # Sorted, so that the p-value does not depend on the order of the queries.
    magnitudes = np.sort(np.abs(np.asarray(differences, np.float64)))
    observed = abs(float(np.sum(differences)))
    rng = np.random.default_rng(seed)
    beyond, step = 1, max(1, _AT_ONCE // len(magnitudes))
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start), len(magnitudes)
        signs = rng.integers(0, 2, size, dtype=np.int8) * 2 - 1
        # Rounded sums of the very signs that were observed must count, too.
        beyond += int(np.sum(np.abs(signs @ magnitudes) >= observed * (1 - 1e-12)))
    return beyond / (num_resamples + 1)


class Comparison(NamedTuple):
    """Difference of two results on the same queries, a - b, with interval and p-value.

    Attributes:
      metric: The id that both share.
      difference: Mean over queries of a's value minus b's.
      low: Lower end of its 95 % paired bootstrap interval.
      high: Upper end.
      p_value: Share of random exchanges of a and b, query by query, that differ by as much or more
        (a two-sided randomization test).
      num_queries: Queries.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    num_queries: int

    def __repr__(self) -> str:
        return (
            f"<Comparison of {self.num_queries:,} queries: difference {self.difference:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}), p {self.p_value:.2g}; {self.metric}>"
        )


def compare(
    a: Results,
    b: Results,
    *,
    metric: str | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compares two results on the same queries, paired query by query.

    Args:
      a: First result.
      b: Second result, on the same queries and with the same metric id.
      metric: Metric id to compare; the first of `a` when None.
      num_resamples: Number of resamples of the paired bootstrap.
      seed: Seed of the draws.

    Returns:
      The difference with its interval.

    Raises:
      ValueError: if the ids differ, or the queries or the database do.

    Reference:
      Smucker et al., A Comparison of Statistical Significance Tests for Information Retrieval
      Evaluation, CIKM 2007 (the randomization test).
    """
    if num_resamples < 1:
        raise InputError(f"num_resamples must be 1 or more, got {num_resamples}")
    metric = a.metric if metric is None else metric
    for side, results in (("a", a), ("b", b)):
        if metric not in results.per_query:
            known = ", ".join(results.per_query)
            raise InputError(
                f"numbers of different ids are different quantities: {side} has {known}, "
                f"not {metric}"
            )
    if a.num_database != b.num_database:
        raise InputError(
            f"results must be of one database, got {a.num_database} and {b.num_database} items"
        )
    # The digest covers labels and split: values of other queries cannot be paired.
    if a.task_digest != b.task_digest:
        raise InputError(
            "a paired comparison needs the same queries in the same order and the same database, "
            f"got tasks of digest {a.task_digest} and {b.task_digest}"
        )
    differences = a.per_query[metric] - b.per_query[metric]
    # Both signs use the same draws, so that exchanging a and b only changes signs.
    sign = -1.0 if differences.sum() < 0 else 1.0
    ends = mean_interval(sign * differences, num_resamples=num_resamples, seed=seed)
    # With a minus the ends change places.
    low, high = sorted(sign * end for end in ends)
    return Comparison(
        metric=metric,
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=randomization_p_value(differences, num_resamples=num_resamples, seed=seed),
        num_queries=len(differences),
    )
