"""Intervals over queries: what another draw of as many queries would give."""

import numpy as np

_AT_ONCE = 1 << 22  # values resampled at once


def resampled_means(values: np.ndarray, *, num_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Draws as many queries, with replacement, again and again, and takes their mean.

    Args:
      values: One per query, [Q]; their order has no effect.
      num_resamples: R.
      seed: Of the draws.

    Returns:
      The means, [R] float64.

    Reference:
      Efron, Bootstrap Methods: Another Look at the Jackknife, The Annals of Statistics 7(1), 1979.
    """
    values = np.sort(np.asarray(values, np.float64))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, num_resamples, step := max(1, _AT_ONCE // len(values))):
        drawn = rng.integers(0, len(values), (min(step, num_resamples - start), len(values)))
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)


def interval(means: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Returns the central part of resampled means, lower and upper end."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
