"""Ranking metrics, exact in ties."""

from quantjax.metrics.conventions import (
    Convention,
    ConventionResult,
    mean_average_precision_as,
)
from quantjax.metrics.identifiers import metric_id
from quantjax.metrics.measures import Measure, mean_average_precision
from quantjax.metrics.ranking import (
    Bounds,
    average_precision,
    average_precision_bounds,
    average_precision_from_counts,
    chance,
)
from quantjax.metrics.reranking import rerank

__all__ = [
    "Bounds",
    "Convention",
    "ConventionResult",
    "Measure",
    "average_precision",
    "average_precision_bounds",
    "average_precision_from_counts",
    "chance",
    "mean_average_precision",
    "mean_average_precision_as",
    "metric_id",
    "rerank",
]
