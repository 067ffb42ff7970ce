"""Methods: the training method of each paper, as a `Method` of pure functions."""

from quantjax.batch import Batch, Collectives
from quantjax.methods.adsq import adsq
from quantjax.methods.base import Context, Inputs, Loss, Method, Phase, Refresh, features, images
from quantjax.methods.contract import check
from quantjax.methods.cosine_softmax import cosine_softmax
from quantjax.methods.deepquan import deepquan
from quantjax.methods.dqn import dqn, dqn_ste
from quantjax.methods.supervised import (
    ArraysLoss,
    EmbeddingLoss,
    FitCodec,
    InitLoss,
    supervised,
    supervised_with_arrays,
)
from quantjax.methods.triplet_quantization import triplet_quantization

__all__ = [
    "ArraysLoss",
    "Batch",
    "Collectives",
    "Context",
    "EmbeddingLoss",
    "FitCodec",
    "InitLoss",
    "Inputs",
    "Loss",
    "Method",
    "Phase",
    "Refresh",
    "adsq",
    "check",
    "cosine_softmax",
    "deepquan",
    "dqn",
    "dqn_ste",
    "features",
    "images",
    "supervised",
    "supervised_with_arrays",
    "triplet_quantization",
]
