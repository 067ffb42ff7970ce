"""Rows of the contract test for `quantjax.losses.ranking`."""

import math

import numpy as np

from quantjax import losses
from tests.losses.case import SIZES, Case, coin, normal


def _column(rng, shape):
    return rng.integers(-1, SIZES["N"], size=shape)  # -1 is no column at all.


def _soft_average_precision(queries, database, similar, selves, steepness=1.0, num_bins=None):
    num_bits = queries.shape[1]
    num_bins = num_bins or num_bits
    result = []
    for query, row, own in zip(queries, similar, selves, strict=True):
        items, hits = [0.0] * (num_bins + 1), [0.0] * (num_bins + 1)
        relevant = 0
        for j, item in enumerate(database):
            if j == own:
                continue
            inner = sum(
                math.tanh(steepness * a / 2) * math.tanh(steepness * b / 2)
                for a, b in zip(query, item, strict=True)
            )
            relevant += bool(row[j])
            for level in range(num_bins + 1):
                gap = abs((num_bits - inner) / 2 - level * num_bits / num_bins)
                share = max(0.0, 1 - gap * num_bins / num_bits)
                items[level] += share
                hits[level] += share * bool(row[j])
        total = 0.0
        for level in range(num_bins + 1):
            better = sum(hits[:level]) + sum(hits[: level + 1]) + 1
            total += hits[level] * better / (sum(items[:level]) + sum(items[: level + 1]) + 1)
        result.append(1 - total / relevant if relevant else 0.0)
    return np.array(result)


def _cosine(a, b):
    lengths = math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths if lengths else 0.0


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _smooth_recall_at_k(
    queries,
    database,
    similar,
    selves,
    top_ks=(1, 2, 4, 8, 16),
    count_temperatures=(1.0, 2.0, 4.0, 8.0, 16.0),
    rank_temperature=0.01,
):
    result = []
    for query, row, own in zip(queries, similar, selves, strict=True):
        s = {j: _cosine(query, item) for j, item in enumerate(database) if j != own}
        ranks = [
            1 + sum(_sigmoid((s[z] - s[j]) / rank_temperature) for z in s if z != j)
            for j in s
            if row[j]
        ]
        recalls = [
            min(k, sum(_sigmoid((k - rank) / t) for rank in ranks)) / min(k, len(ranks))
            for k, t in zip(top_ks, count_temperatures, strict=True)
            if ranks
        ]
        result.append(1 - sum(recalls) / len(recalls) if ranks else 0.0)
    return np.array(result)


_ARGUMENTS = (("QD", normal), ("ND", normal), ("QN", coin), ("Q", _column))

CASES = (
    Case(
        losses.soft_average_precision,
        oracle=_soft_average_precision,
        arguments=_ARGUMENTS,
        result="Q",
        settings=({}, {"steepness": 3.0, "num_bins": 3}),
        trained=(0, 1),
    ),
    Case(
        losses.smooth_recall_at_k,
        oracle=_smooth_recall_at_k,
        arguments=_ARGUMENTS,
        result="Q",
        # Ranks softer than the default: at 0.01 a float32 difference quotient is all curvature.
        settings=(
            {"rank_temperature": 0.2},
            {"rank_temperature": 0.5, "top_ks": (2, 5), "count_temperatures": (0.5, 3.0)},
        ),
        trained=(0, 1),
    ),
)
