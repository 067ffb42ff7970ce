"""Methods: the training method of each paper, as a `Method` of pure functions."""

from quantjax.batch import Batch, Collectives
from quantjax.methods.adsq import adsq
from quantjax.methods.base import Context, Inputs, Loss, Method, Phase, Refresh, features, images
from quantjax.methods.bihalf import bihalf, bihalf_supervised
from quantjax.methods.cibhash import cibhash
from quantjax.methods.contract import check
from quantjax.methods.cosine_softmax import cosine_softmax
from quantjax.methods.csq import csq
from quantjax.methods.deepquan import deepquan
from quantjax.methods.dhn import dhn
from quantjax.methods.dpn import dpn
from quantjax.methods.dpsh import dpsh
from quantjax.methods.dqn import dqn, dqn_ste
from quantjax.methods.dtq import dtq
from quantjax.methods.dtsh import dtsh
from quantjax.methods.greedyhash import greedyhash
from quantjax.methods.hashnet import hashnet
from quantjax.methods.orthohash import orthohash
from quantjax.methods.pqnet import pqnet
from quantjax.methods.saturated_softmax import saturated_softmax, saturated_softmax_product
from quantjax.methods.spq import spq
from quantjax.methods.supervised import (
    ArraysLoss,
    EmbeddingLoss,
    FitCodec,
    InitLoss,
    TrainedCodec,
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
    "TrainedCodec",
    "adsq",
    "bihalf",
    "bihalf_supervised",
    "check",
    "cibhash",
    "cosine_softmax",
    "csq",
    "deepquan",
    "dhn",
    "dpn",
    "dpsh",
    "dqn",
    "dqn_ste",
    "dtq",
    "dtsh",
    "features",
    "greedyhash",
    "hashnet",
    "images",
    "orthohash",
    "pqnet",
    "saturated_softmax",
    "saturated_softmax_product",
    "spq",
    "supervised",
    "supervised_with_arrays",
    "triplet_quantization",
]
