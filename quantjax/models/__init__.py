"""Networks behind two pure functions."""

from quantjax.models.base import Network, from_nnx
from quantjax.models.convnet import convnet
from quantjax.models.mlp import mlp
from quantjax.models.resnet import resnet

__all__ = ["Network", "convnet", "from_nnx", "mlp", "resnet"]
