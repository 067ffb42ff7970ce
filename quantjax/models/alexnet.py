"""Builds AlexNet in Caffe's and in torchvision's form."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from quantjax.errors import InputError
from quantjax.models.base import Network, check_positive, from_nnx
from quantjax.models.layers import conv_general_dilated
from quantjax.models.weights import TORCH_LEAVES, Source, after_flattening

FEATURES = 4096


class Convolution(NamedTuple):
    """Describes a convolution layer; `after` is applied to its maps [B, H, W, C] after ReLU."""

    channels: int
    size: int
    strides: int
    padding: int
    groups: int
    after: Callable[[jax.Array], jax.Array]


def local_response_norm(x: jax.Array) -> jax.Array:
    """Normalizes each value by the squares of the five channels around it, at the same pixel.

    y_c = x_c / (1 + 1e-4 / 5 sum_{|j - c| <= 2} x_j^2)^0.75
    """
    # A window over channels alone.
    window = (*(1,) * (x.ndim - 1), 5)
    padding = [(0, 0)] * (x.ndim - 1) + [(2, 2)]
    squares = lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, padding)
    return x * (1 + 1e-4 / 5 * squares) ** -0.75


def max_pool(x: jax.Array) -> jax.Array:
    """Max-pools 3x3 pixels with stride 2, without padding."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


def _normalized_pool(x):
    return max_pool(local_response_norm(x))


def _keep(x):
    return x


# Channels, side, strides, padding, groups of each convolution. Two groups are the paper's two GPUs.
CAFFE = (
    Convolution(96, 11, 4, 0, 1, _normalized_pool),
    Convolution(256, 5, 1, 2, 2, _normalized_pool),
    Convolution(384, 3, 1, 1, 1, _keep),
    Convolution(384, 3, 1, 1, 2, _keep),
    Convolution(256, 3, 1, 1, 2, max_pool),
)
# The single tower of "One weird trick", which torchvision trained.
TORCHVISION = (
    Convolution(64, 11, 4, 2, 1, max_pool),
    Convolution(192, 5, 1, 2, 1, max_pool),
    Convolution(384, 3, 1, 1, 1, _keep),
    Convolution(256, 3, 1, 1, 1, _keep),
    Convolution(256, 3, 1, 1, 1, max_pool),
)


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
        self.after = tuple(row.after for row in table)
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
                    feature_group_count=row.groups,
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
        for layer, after in zip(self.convolutions, self.after, strict=True):
            x = after(nnx.relu(layer(x)))
        x = jnp.reshape(x, (x.shape[0], -1))
        for layer in self.dense:
            x = self.dropout(nnx.relu(layer(x)), deterministic=not train, rngs=rngs)
        return x if self.bottleneck is None else self.bottleneck(x)


def map_shape(input_shape: tuple[int, int, int], table: tuple[Convolution, ...]) -> tuple[int, int]:
    """Returns the (height, width) of the last convolution maps, which are flattened.

    Raises:
      ValueError: if the images are so small that a convolution's maps have no pixel.
    """
    height, width, _ = input_shape
    for row in table:
        height, width = (
            (size + 2 * row.padding - row.size) // row.strides + 1 for size in (height, width)
        )
        # Maps without a pixel cannot be pooled; the error for them follows.
        if min(height, width) > 0:
            maps = jax.ShapeDtypeStruct((1, height, width, row.channels), jnp.float32)
            _, height, width, _ = jax.eval_shape(row.after, maps).shape
        if min(height, width) < 1:
            raise InputError(f"images of shape {input_shape} are too small for these convolutions")
    return height, width


def alexnet_caffe(
    input_shape: tuple[int, int, int] = (227, 227, 3), *, dim: int | None = None
) -> Network:
    """Builds Caffe's bvlc_alexnet, with grouped convolutions and local response normalisation.

    Max pooling has no padding here; Caffe's reaches over the border at sizes other than 227x227.

    Args:
      input_shape: (H, W, C) of the images; Caffe's weights need images made by `caffe_images`.
      dim: D, the width of a linear `bottleneck` after the second dense layer; None for that
        layer's 4096 features.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim], or [B, 4096]. It needs a key for dropout in
      training, and has no batch statistics. Its `apply` raises ValueError for images of another
      shape.

    Raises:
      ValueError: if the images are too small, or dim not positive.

    Reference:
      Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012.
    """
    return _network(input_shape, CAFFE, dim)


def alexnet_torchvision(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, dim: int | None = None
) -> Network:
    """Builds torchvision's AlexNet, with a single tower, fewer channels and no normalisation.

    torchvision pools maps of other sizes to 6x6; this function does not. torchvision's dropout
    comes before the dense layers; ours, like the paper's, comes after them.

    Args:
      input_shape: (H, W, C) of the images; torchvision's weights need images made by
        `resnet.normalize`.
      dim: As `alexnet_caffe`'s.

    Returns:
      The network, as `alexnet_caffe`'s.

    Raises:
      ValueError: as `alexnet_caffe` does.

    Reference:
      Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997.
    """
    return _network(input_shape, TORCHVISION, dim)


def _network(input_shape, table, dim):
    if len(input_shape) != 3:
        raise InputError(f"input_shape must be (height, width, channels), got {input_shape}")
    check_positive(dim=dim)
    shape = tuple(input_shape)
    map_shape(shape, table)
    return from_nnx(functools.partial(AlexNet, shape, table, FEATURES, dim), input_shape=shape)


def caffe_images(images: jax.Array) -> jax.Array:
    """Converts RGB images [..., 3] of 0 to 255 to Caffe's inputs: BGR minus ImageNet's mean."""
    return jnp.asarray(images, jnp.float32)[..., ::-1] - jnp.asarray([104, 117, 123], jnp.float32)


def caffe_names(height: int, width: int) -> Callable[[str], str | Source | None]:
    """Returns the `names` function with which `weights.load` reads Caffe's conv1 to fc7.

    The classifier fc8 is left over.

    Args:
      height: Height of the maps that are flattened, 6 for images of 227x227; see `map_shape`.
      width: Their width.
    """
    return functools.partial(
        _name, [f"conv{i}" for i in range(1, 6)], ["fc6", "fc7"], after_flattening(height, width)
    )


def torchvision_names(height: int, width: int) -> Callable[[str], str | Source | None]:
    """Returns the `names` function with which `weights.load` reads torchvision's layers.

    The classifier classifier.6 is left over.

    Args:
      height: Height of the maps that are flattened, 6 for images of 224x224; see `map_shape`.
      width: Their width.
    """
    features = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    classifier = ["classifier.1", "classifier.4"]
    return functools.partial(_name, features, classifier, after_flattening(height, width))


def _name(convolutions, dense, flattened, path):
    # Such as "convolutions/0/kernel", "dense/1/bias" and "bottleneck/kernel".
    kind, *number, leaf = path.split("/")
    if kind == "bottleneck":
        return None
    name = (convolutions if kind == "convolutions" else dense)[int(number[0])]
    name = f"{name}.{TORCH_LEAVES[leaf]}"
    # The first dense layer reads flattened maps: PyTorch and Caffe flatten channels first.
    return Source(name, flattened) if path == "dense/0/kernel" else name
