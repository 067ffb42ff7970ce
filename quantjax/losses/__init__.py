"""Losses: one published equation, one pure function; the caller reduces."""

from quantjax.losses import centres as centres
from quantjax.losses import selection as selection
from quantjax.losses.contrastive import cibhash, cross_quantized, debiased_nt_xent, nt_xent
from quantjax.losses.pairwise import (
    pair_weights,
    pairwise_cauchy,
    pairwise_contrastive,
    pairwise_cosine,
    pairwise_inner_product,
    pairwise_likelihood,
)
from quantjax.losses.proxy import (
    central_similarity,
    class_wise_margin,
    greedy_hash,
    orthogonal_cosine,
)
from quantjax.losses.quantization import (
    bit_balance,
    bit_independence,
    code_entropy,
    cubed_sign_error,
    gini_batch,
    gini_sample,
    log_cosh_sign,
    quantization_error,
    sign_error,
    usage_entropy,
)
from quantjax.losses.ranking import smooth_recall_at_k, soft_average_precision
from quantjax.losses.triplet import (
    asymmetric_triplet_quantization,
    order_drop,
    triplet_likelihood,
    triplet_margin,
    triplet_quantization,
    triplet_sigmoid,
)

__all__ = [
    "asymmetric_triplet_quantization",
    "bit_balance",
    "bit_independence",
    "central_similarity",
    "cibhash",
    "class_wise_margin",
    "code_entropy",
    "cross_quantized",
    "cubed_sign_error",
    "debiased_nt_xent",
    "gini_batch",
    "gini_sample",
    "greedy_hash",
    "log_cosh_sign",
    "nt_xent",
    "order_drop",
    "orthogonal_cosine",
    "pair_weights",
    "pairwise_cauchy",
    "pairwise_contrastive",
    "pairwise_cosine",
    "pairwise_inner_product",
    "pairwise_likelihood",
    "quantization_error",
    "sign_error",
    "smooth_recall_at_k",
    "soft_average_precision",
    "triplet_likelihood",
    "triplet_margin",
    "triplet_quantization",
    "triplet_sigmoid",
    "usage_entropy",
]
