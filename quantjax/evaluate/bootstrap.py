"""Bootstrap intervals and a randomization test for means over queries."""

import numpy as np

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
