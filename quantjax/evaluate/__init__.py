"""Measures retrieval from embeddings, codes or distances, exact in ties, with intervals."""

from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.external import evaluate_codes, evaluate_distances, evaluate_embeddings
from quantjax.evaluate.hamming import hamming_average_precision, hamming_counts
from quantjax.evaluate.intervals import (
    Comparison,
    compare,
    mean_interval,
    randomization_p_value,
    resampled_means,
)
from quantjax.evaluate.method import (
    Retrieval,
    codeword_counts,
    evaluate_method,
    measure_validation,
    task_of,
    unmeasured,
    usage_of,
    watch,
    watcher,
)
from quantjax.evaluate.ranked import DistinctCodes, distinct_codes, ranked_counts
from quantjax.evaluate.recall import recall
from quantjax.evaluate.relevance import Relevance, items_and_relevant, relevance
from quantjax.evaluate.results import Number, Results, read_results, write_results

__all__ = [
    "Comparison",
    "DistinctCodes",
    "Number",
    "Relevance",
    "Results",
    "Retrieval",
    "codeword_counts",
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
    "recall",
    "relevance",
    "resampled_means",
    "task_of",
    "unmeasured",
    "usage_of",
    "watch",
    "watcher",
    "write_results",
]
