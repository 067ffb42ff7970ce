"""Builds ResNet-18 for images of 32x32 pixels, with a stem that does not reduce them."""

import jax

from quantjax.models.base import Network
from quantjax.models.resnet import Kernel, Stem, basic_block, build


def _keep(x: jax.Array) -> jax.Array:
    return x


STEM = Stem(Kernel(3, 1, 64), _keep)


def cifar_resnet18(
    input_shape: tuple[int, int, int] = (32, 32, 3), *, dim: int | None = None
) -> Network:
    """Builds the common variant of ResNet-18 for CIFAR.

    It is `resnet18` with a stem of a 3x3 convolution of stride 1 and no pooling. The paper's
    networks for CIFAR differ: they have three stages of 16 to 64 channels. Weights load by
    `resnet.names`; files of github.com/kuangliu/pytorch-cifar say `shortcut` for its `downsample`.

    Args:
      input_shape: (H, W, C) of the images.
      dim: D, the width of a linear `bottleneck` after the features; None for the features.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim], or [B, 512]. Its net_state holds batch
      statistics. Its `apply` raises ValueError for images of another shape.

    Raises:
      ValueError: if input_shape is not three positive sizes, or dim not positive.

    Reference:
      He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """
    return build(input_shape, STEM, basic_block, (2, 2, 2, 2), dim)
