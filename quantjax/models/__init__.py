"""Defines networks as two pure functions, and adapts modules of other libraries."""

from quantjax.models.adapters import from_equinox, from_haiku, from_linen
from quantjax.models.alexnet import alexnet_caffe, alexnet_torchvision
from quantjax.models.base import Network, from_nnx
from quantjax.models.efficientnet_lite import efficientnet_lite0
from quantjax.models.resnet import cifar_resnet18, resnet18, resnet50
from quantjax.models.small_networks import convnet, mlp, patch_resnet
from quantjax.models.wrappers import (
    fine_tuned,
    in_precision,
    microbatched,
    standardize,
    standardized,
    unit,
)

__all__ = [
    "Network",
    "alexnet_caffe",
    "alexnet_torchvision",
    "cifar_resnet18",
    "convnet",
    "efficientnet_lite0",
    "fine_tuned",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "in_precision",
    "microbatched",
    "mlp",
    "patch_resnet",
    "resnet18",
    "resnet50",
    "standardize",
    "standardized",
    "unit",
]
