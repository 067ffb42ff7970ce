"""Ranking metrics, exact in ties."""

from quantjax.metrics.identifiers import metric_id
from quantjax.metrics.ranking import (
    Bounds,
    average_precision,
    average_precision_bounds,
    average_precision_from_counts,
    chance,
)

__all__ = [
    "Bounds",
    "average_precision",
    "average_precision_bounds",
    "average_precision_from_counts",
    "chance",
    "metric_id",
]
