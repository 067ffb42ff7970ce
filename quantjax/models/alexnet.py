"""Builds torchvision's AlexNet."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from quantjax.errors import InputError
from quantjax.models.base import Network, check_positive, from_nnx
from quantjax.models.layers import conv_general_dilated
from quantjax.models.weights import TORCH_LEAVES, Source, after_flattening

FEATURES = 4096


class Convolution(NamedTuple):
    """Describes a convolution, and whether its maps are max-pooled: 3x3 pixels, stride 2."""

    channels: int
    size: int
    strides: int
    padding: int
    is_pooled: bool


# The single tower of "One weird trick", which torchvision trained.
TORCHVISION = (
    Convolution(64, 11, 4, 2, True),
    Convolution(192, 5, 1, 2, True),
    Convolution(384, 3, 1, 1, False),
    Convolution(256, 3, 1, 1, False),
    Convolution(256, 3, 1, 1, True),
)
# Torchvision's names of the convolutions and of the dense layers.
_LAYERS = {
    "convolutions": [f"features.{i}" for i in (0, 3, 6, 8, 10)],
    "dense": ["classifier.1", "classifier.4"],
}


class AlexNet(nnx.Module):
    """Stacks convolutions, two dense layers with dropout, and an optional linear `bottleneck`."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        table: tuple[Convolution, ...],
        hidden: int,
        dim: int | None,
        *,
        rngs: nnx.Rngs,
    ):
        self.is_pooled = tuple(row.is_pooled for row in table)
        self.convolutions = nnx.List()
        depth = input_shape[2]
        for row in table:
            self.convolutions.append(
                nnx.Conv(
                    depth,
                    row.channels,
                    (row.size, row.size),
                    strides=row.strides,
                    padding=row.padding,
                    conv_general_dilated=conv_general_dilated,
                    rngs=rngs,
                )
            )
            depth = row.channels
        height, width = map_shape(input_shape, table)
        widths = (height * width * depth, hidden, hidden)
        self.dense = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths))
        # Without rngs: the module may keep no random state, see `from_nnx`.
        self.dropout = nnx.Dropout(0.5)
        self.bottleneck = None if dim is None else nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps images [B, H, W, C] to [B, dim], or to [B, hidden] without a bottleneck."""
        for layer, is_pooled in zip(self.convolutions, self.is_pooled, strict=True):
            x = nnx.relu(layer(x))
            x = nnx.max_pool(x, (3, 3), strides=(2, 2)) if is_pooled else x
        x = jnp.reshape(x, (x.shape[0], -1))
        for layer in self.dense:
            x = self.dropout(nnx.relu(layer(x)), deterministic=not train, rngs=rngs)
        return x if self.bottleneck is None else self.bottleneck(x)


def map_shape(input_shape: tuple[int, int, int], table: tuple[Convolution, ...]) -> tuple[int, int]:
    """Returns the (height, width) of the last convolution maps, which are flattened.

    Raises:
      ValueError: if the images are so small that a convolution's maps have no pixel.
    """
    sides = input_shape[:2]
    for row in table:
        sides = [(size + 2 * row.padding - row.size) // row.strides + 1 for size in sides]
        if row.is_pooled:
            sides = [(size - 3) // 2 + 1 for size in sides]
        if min(sides) < 1:
            raise InputError(f"images of shape {input_shape} are too small for these convolutions")
    return sides[0], sides[1]


def alexnet_torchvision(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, dim: int | None = None
) -> Network:
    """Builds torchvision's AlexNet without its classifier.

    torchvision pools maps of other sizes to 6x6; this function does not. torchvision's dropout
    comes before the dense layers; ours, like the paper's, comes after them.

    Args:
      input_shape: (H, W, C) of the images; torchvision's weights need images made by
        `resnet.normalize`.
      dim: D, the width of a linear `bottleneck` after the second dense layer; None for that
        layer's 4096 features.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim], or [B, 4096]. It needs a key for dropout in
      training, and has no batch statistics. Its `apply` raises ValueError for images of another
      shape.

    Raises:
      ValueError: if the images are too small, or dim not positive.

    Reference:
      Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997.
    """
    if len(input_shape) != 3:
        raise InputError(f"input_shape must be (height, width, channels), got {input_shape}")
    check_positive(dim=dim)
    shape = tuple(input_shape)
    map_shape(shape, TORCHVISION)
    build = functools.partial(AlexNet, shape, TORCHVISION, FEATURES, dim)
    return from_nnx(build, input_shape=shape)


def torchvision_names(height: int, width: int) -> Callable[[str], str | Source | None]:
    """Returns the `names` function with which `weights.load` reads torchvision's layers.

    The classifier classifier.6 is left over.

    Args:
      height: Height of the maps that are flattened, 6 for images of 224x224; see `map_shape`.
      width: Their width.
    """
    flattened = after_flattening(height, width)

    def name(path):
        # Such as "convolutions/0/kernel", "dense/1/bias" and "bottleneck/kernel".
        kind, *number, leaf = path.split("/")
        if kind == "bottleneck":
            return None
        tensor = f"{_LAYERS[kind][int(number[0])]}.{TORCH_LEAVES[leaf]}"
        # The first dense layer reads flattened maps: PyTorch flattens channels first.
        return Source(tensor, flattened) if path == "dense/0/kernel" else tensor

    return name
