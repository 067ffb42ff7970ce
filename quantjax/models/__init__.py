"""Defines networks as two pure functions, and adapts modules of other libraries."""

from quantjax.models.alexnet import alexnet_caffe, alexnet_torchvision
from quantjax.models.base import Network, from_nnx
from quantjax.models.cifar_resnet import cifar_resnet18
from quantjax.models.convnet import convnet
from quantjax.models.efficientnet_lite import efficientnet_lite0
from quantjax.models.fine_tuned import fine_tuned
from quantjax.models.from_equinox import from_equinox
from quantjax.models.from_haiku import from_haiku
from quantjax.models.from_linen import from_linen
from quantjax.models.microbatch import microbatched
from quantjax.models.mlp import mlp
from quantjax.models.patch_resnet import patch_resnet
from quantjax.models.precision import in_precision
from quantjax.models.resnet import resnet18, resnet50

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
]
