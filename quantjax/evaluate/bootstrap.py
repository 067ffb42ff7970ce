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


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the central part of the resampled means, its lower and upper end.

    Args:
      values: One per query, [Q].
      level: Share of the resamples between the ends.
      num_resamples: How many.
      seed: Of the draws.

    Returns:
      Both ends; NaN for one query, of which there is no other draw.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    means = resampled_means(values, num_resamples=num_resamples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def randomization_p_value(
    differences: np.ndarray, *, num_resamples: int = 10_000, seed: int = 0
) -> float:
    """Returns how often the mean is as far from 0 when each difference takes a random sign.

    Args:
      differences: One per query, [Q].
      num_resamples: How many draws of signs; the one that was observed counts as one more.
      seed: Of the draws.

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
