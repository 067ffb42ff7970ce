"""Loss functions from papers on image codes: one pure function for each published equation.

A function returns one loss per pair, triplet, row, bit or codebook; the caller averages.

  Paper                              Function
  DQN (AAAI 2016)                    pairwise_cosine, quantization_error
  DQNip (AAAI 2016)                  pairwise_inner_product, quantization_error
  DPSH (IJCAI 2016)                  pairwise_likelihood, sign_error
  DHN (AAAI 2016)                    pairwise_likelihood, log_cosh_sign
  HashNet (ICCV 2017)                pairwise_likelihood times pair_weights
  DSH (CVPR 2016)                    pairwise_contrastive, absolute_sign_error
  Deep Cauchy Hashing (CVPR 2018)    pairwise_cauchy times pair_weights, cauchy_sign_error
  CSQ (CVPR 2020)                    central_similarity, sign_error, hadamard_centres,
                                     bernoulli_centres, class_centres
  OrthoHash (NeurIPS 2021)           orthogonal_cosine
  CosFace (CVPR 2018)                orthogonal_cosine, of trained centres
  ArcFace (CVPR 2019)                additive_angular_margin
  Proxy Anchor (CVPR 2020)           proxy_anchor
  DPN (IJCAI 2020)                   class_wise_margin
  GreedyHash (NeurIPS 2018)          greedy_hash, cubed_sign_error; without labels:
                                     pairwise_cosine_match, cubed_sign_error
  BiHalf (AAAI 2021)                 pairwise_cosine_match
  FaceNet (CVPR 2015)                triplet_margin, selection.semi_hard
  DTSH (ACCV 2016)                   triplet_likelihood
  PQN (ECCV 2018)                    triplet_sigmoid
  DTQ (ACM MM 2018)                  selection.group_hard, selection.random_violating
  Triplet quantization (VCIP 2017)   triplet_quantization, asymmetric_triplet_quantization,
                                     order_drop
  SimCLR (ICML 2020)                 nt_xent, nt_xent_of_views
  SupCon (NeurIPS 2020)              supervised_contrastive
  Multi-Similarity (CVPR 2019)       multi_similarity
  XBM (CVPR 2020)                    memory.push
  MeCoQ (AAAI 2022)                  debiased_nt_xent, code_entropy
  SPQ (ICCV 2021)                    cross_quantized
  CIBHash (IJCAI 2021)               cibhash
  TALR (CVPR 2018)                   soft_average_precision
  Recall@k surrogate (CVPR 2022)     smooth_recall_at_k
  ADSQ (IEEE Access 2019)            pairwise_likelihood, pairwise_inner_product,
                                     quantization_error, bit_balance
  DAPH (ACM MM 2017)                 bit_independence
  Klein and Wolf (CVPR 2019)         gini_batch, gini_sample
  LFQ (ICLR 2024)                    code_entropy, usage_entropy (see quantizers.scalar)
  Matryoshka (NeurIPS 2022)          nested
  no single paper                    usage_entropy, coded

Some functions prepare arguments. `hadamard_centres`, `bernoulli_centres` and `class_centres` make
class centres for the losses of CSQ, OrthoHash and DPN. The module `losses.selection` selects
triplets for the triplet losses, and `losses.memory` keeps rows of earlier batches as more columns.
Two wrappers change a loss: `coded` shows it codes, and `nested` every prefix of the embedding.
"""

from quantjax.losses import memory as memory
from quantjax.losses import selection as selection
from quantjax.losses.centres import bernoulli_centres, class_centres, hadamard_centres
from quantjax.losses.contrastive import (
    cibhash,
    cross_quantized,
    debiased_nt_xent,
    nt_xent,
    nt_xent_of_views,
)
from quantjax.losses.many_positives import multi_similarity, supervised_contrastive
from quantjax.losses.pairwise import (
    pair_weights,
    pairwise_cauchy,
    pairwise_contrastive,
    pairwise_cosine,
    pairwise_cosine_match,
    pairwise_inner_product,
    pairwise_likelihood,
)
from quantjax.losses.proxy import (
    additive_angular_margin,
    central_similarity,
    class_wise_margin,
    greedy_hash,
    orthogonal_cosine,
    proxy_anchor,
)
from quantjax.losses.quantization import (
    absolute_sign_error,
    cauchy_sign_error,
    cubed_sign_error,
    log_cosh_sign,
    quantization_error,
    sign_error,
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
from quantjax.losses.usage import (
    bit_balance,
    bit_independence,
    code_entropy,
    gini_batch,
    gini_sample,
    usage_entropy,
)
from quantjax.losses.wrappers import coded, nested

__all__ = [
    "absolute_sign_error", "additive_angular_margin", "asymmetric_triplet_quantization",
    "bernoulli_centres", "bit_balance", "bit_independence", "cauchy_sign_error",
    "central_similarity", "cibhash", "class_centres", "class_wise_margin", "code_entropy", "coded",
    "cross_quantized", "cubed_sign_error", "debiased_nt_xent", "gini_batch", "gini_sample",
    "greedy_hash", "hadamard_centres", "log_cosh_sign", "multi_similarity", "nested", "nt_xent",
    "nt_xent_of_views", "order_drop", "orthogonal_cosine", "pair_weights", "pairwise_cauchy",
    "pairwise_contrastive", "pairwise_cosine", "pairwise_cosine_match", "pairwise_inner_product",
    "pairwise_likelihood", "proxy_anchor", "quantization_error", "sign_error",
    "smooth_recall_at_k", "soft_average_precision", "supervised_contrastive", "triplet_likelihood",
    "triplet_margin", "triplet_quantization", "triplet_sigmoid", "usage_entropy",
]  # fmt: skip
