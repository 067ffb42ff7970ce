"""Methods: each paper as a NamedTuple of pure functions."""

from quantjax.methods.adsq import adsq
from quantjax.methods.base import (
    Batch,
    Collectives,
    Context,
    Inputs,
    Method,
    Phase,
    Refresh,
    features,
    images,
)
from quantjax.methods.contract import check
from quantjax.methods.deepquan import deepquan
from quantjax.methods.dqn import dqn, dqn_ste
from quantjax.methods.triplet_quantization import triplet_quantization

__all__ = [
    "Batch",
    "Collectives",
    "Context",
    "Inputs",
    "Method",
    "Phase",
    "Refresh",
    "adsq",
    "check",
    "deepquan",
    "dqn",
    "dqn_ste",
    "features",
    "images",
    "triplet_quantization",
]
