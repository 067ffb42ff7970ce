"""Measures retrieval from embeddings, codes or distances, exact in ties, with intervals."""

from quantjax.evaluate.bootstrap import (
    mean_interval,
    randomization_p_value,
    resampled_means,
)
from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.external import evaluate_codes, evaluate_distances, evaluate_embeddings
from quantjax.evaluate.files import read_results, write_results
from quantjax.evaluate.hamming import hamming_average_precision, hamming_counts
from quantjax.evaluate.method import (
    Retrieval,
    evaluate_method,
    measure_validation,
    task_of,
    unmeasured,
)
from quantjax.evaluate.ranked import ranked_counts
from quantjax.evaluate.relevance import Relevance, items_and_relevant, relevance
from quantjax.evaluate.results import Comparison, Number, Results, compare
from quantjax.evaluate.stored import DistinctCodes, distinct_codes
from quantjax.evaluate.watch import usage_of, watch, watcher

__all__ = [
    "Comparison",
    "DistinctCodes",
    "Number",
    "Relevance",
    "Results",
    "Retrieval",
    "compare",
    "distinct_codes",
    "encode",
    "evaluate",
    "evaluate_codes",
    "evaluate_distances",
    "evaluate_embeddings",
    "evaluate_method",
    "hamming_average_precision",
    "hamming_counts",
    "items_and_relevant",
    "mean_interval",
    "measure_validation",
    "randomization_p_value",
    "ranked_counts",
    "read_results",
    "relevance",
    "resampled_means",
    "task_of",
    "unmeasured",
    "usage_of",
    "watch",
    "watcher",
    "write_results",
]
