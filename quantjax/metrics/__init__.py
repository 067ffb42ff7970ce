"""Ranking metrics such as average precision, averaged exactly over all orders of ties."""

from quantjax.metrics import conventions, measures
from quantjax.metrics.at_k import (
    hit_rate,
    hit_rate_from_counts,
    precision,
    precision_from_counts,
    r_precision,
    r_precision_from_counts,
    recall,
    recall_from_counts,
    reciprocal_rank,
    reciprocal_rank_from_counts,
)
from quantjax.metrics.conventions import (
    Convention,
    ConventionResult,
    mean_average_precision_as,
    rerank,
)
from quantjax.metrics.curves import (
    BallPrecision,
    PrecisionRecall,
    precision_recall_curve,
    precision_recall_curve_from_counts,
    precision_within_radius,
    precision_within_radius_from_counts,
)
from quantjax.metrics.graded import (
    acg,
    acg_from_counts,
    ndcg,
    ndcg_from_counts,
    wap,
    wap_from_counts,
)
from quantjax.metrics.measures import Measure
from quantjax.metrics.ranking import (
    Bounds,
    average_precision,
    average_precision_at_r,
    average_precision_at_r_from_counts,
    average_precision_bounds,
    average_precision_from_counts,
    chance,
)

__all__ = [
    "BallPrecision", "Bounds", "Convention", "ConventionResult", "Measure", "PrecisionRecall",
    "acg", "acg_from_counts", "average_precision", "average_precision_at_r",
    "average_precision_at_r_from_counts", "average_precision_bounds",
    "average_precision_from_counts", "chance", "conventions", "hit_rate", "hit_rate_from_counts",
    "mean_average_precision_as", "measures", "ndcg", "ndcg_from_counts", "precision",
    "precision_from_counts", "precision_recall_curve", "precision_recall_curve_from_counts",
    "precision_within_radius", "precision_within_radius_from_counts", "r_precision",
    "r_precision_from_counts", "recall", "recall_from_counts", "reciprocal_rank",
    "reciprocal_rank_from_counts", "rerank", "wap", "wap_from_counts",
]  # fmt: skip
