"""Builds ResNets that fit torchvision's weights, and ResNet-18 for images of 32x32 pixels."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from quantjax.errors import InputError
from quantjax.models.base import Network, check_image_shape, check_positive, from_nnx
from quantjax.models.layers import BatchNorm, conv_general_dilated
from quantjax.models.weights import TORCH_LEAVES

_WIDTHS = (64, 128, 256, 512)
_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # as torchvision draws them
_PARTS = {"convolution": "conv", "norm": "bn"}
_IN_SHORTCUT = {"convolution": "0", "norm": "1"}
# Unused tensors of torchvision's files: the classifier and batch counters.
UNUSED = ("fc.*", "*.num_batches_tracked")


class Kernel(NamedTuple):
    """Describes a convolution: side, stride and channels; its padding is side // 2."""

    size: int
    strides: int
    channels: int


class Stem(NamedTuple):
    """Describes the first convolution; `after` is applied to its maps [B, H, W, C] after ReLU."""

    kernel: Kernel
    after: Callable[[jax.Array], jax.Array]


Block = Callable[[int, int], tuple[Kernel, ...]]


def basic_block(width: int, strides: int) -> tuple[Kernel, ...]:
    """Returns the two convolutions of a block of ResNet-18."""
    return Kernel(3, strides, width), Kernel(3, 1, width)


def bottleneck_block(width: int, strides: int) -> tuple[Kernel, ...]:
    """Returns the three convolutions of a block of ResNet-50; the 3x3 has the stride (v1.5)."""
    return Kernel(1, 1, width), Kernel(3, strides, width), Kernel(1, 1, 4 * width)


def max_pool(x: jax.Array) -> jax.Array:
    """Max-pools 3x3 pixels with stride 2 and padding 1; padded pixels never win."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class _Convolution(nnx.Module):
    """Applies a convolution without bias and batch normalisation."""

    def __init__(self, depth: int, kernel: Kernel, *, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(
            depth,
            kernel.channels,
            (kernel.size, kernel.size),
            strides=kernel.strides,
            padding=kernel.size // 2,
            use_bias=False,
            kernel_init=_HE,
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )
        self.norm = BatchNorm(kernel.channels, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x, *, train):
        x = self.convolution(x)
        # The old variance's share of the new average, before the call changes the variance.
        kept = self.norm.momentum * self.norm.var[...]
        y = self.norm(x, use_running_average=not train)
        if train:
            # PyTorch averages the unbiased variance, flax the biased; a single value has no
            # unbiased variance, so it keeps the biased.
            count = x.size // x.shape[-1]
            self.norm.var[...] = kept + (self.norm.var[...] - kept) * count / max(count - 1, 1)
        return y


class _Residual(nnx.Module):
    """Adds convolutions' output to their input, or to its 1x1 convolution `shortcut`."""

    def __init__(self, depth: int, kernels: tuple[Kernel, ...], *, rngs: nnx.Rngs):
        depths = (depth, *(kernel.channels for kernel in kernels))
        self.layers = nnx.List(
            _Convolution(depth, kernel, rngs=rngs)
            for depth, kernel in zip(depths, kernels, strict=False)
        )
        # The shortcut must reach the block's stride and width; if neither changes, none is needed.
        whole = Kernel(1, max(kernel.strides for kernel in kernels), depths[-1])
        self.shortcut = None if whole == (1, 1, depth) else _Convolution(depth, whole, rngs=rngs)

    def __call__(self, x, *, train):
        y = x
        for layer in self.layers[:-1]:
            y = nnx.relu(layer(y, train=train))
        # No ReLU after the last convolution: it follows the sum.
        y = self.layers[-1](y, train=train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, train=train)))


class ResNet(nnx.Module):
    """Stacks a stem, four stages of residuals, average pooling and an optional `bottleneck`."""

    def __init__(
        self,
        channels: int,
        stem: Stem,
        block: Block,
        num_blocks: tuple[int, ...],
        dim: int | None,
        *,
        rngs: nnx.Rngs,
    ):
        self.stem = _Convolution(channels, stem.kernel, rngs=rngs)
        self.after_stem = stem.after
        self.stages = nnx.List()
        depth = stem.kernel.channels
        for stage, (width, count) in enumerate(zip(_WIDTHS, num_blocks, strict=True)):
            # The first block of every later stage halves the maps; the stem did so for stage 0.
            blocks = nnx.List()
            for number in range(count):
                kernels = block(width, 2 if stage and number == 0 else 1)
                blocks.append(_Residual(depth, kernels, rngs=rngs))
                depth = kernels[-1].channels
            self.stages.append(blocks)
        self.bottleneck = None if dim is None else nnx.Linear(depth, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps images [B, H, W, C] to [B, dim], or to the features without a bottleneck."""
        x = self.after_stem(nnx.relu(self.stem(x, train=train)))
        for blocks in self.stages:
            for block in blocks:
                x = block(x, train=train)
        x = jnp.mean(x, axis=(1, 2))
        return x if self.bottleneck is None else self.bottleneck(x)


def _keep(x):
    return x


STEM = Stem(Kernel(7, 2, 64), max_pool)
CIFAR_STEM = Stem(Kernel(3, 1, 64), _keep)


def resnet18(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, dim: int | None = None
) -> Network:
    """Builds torchvision's ResNet-18 without its classifier.

    Args:
      input_shape: (H, W, C) of the images. torchvision's weights need images made by `normalize`;
        they were trained at 224x224x3 and fit any size.
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


def resnet50(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, dim: int | None = None
) -> Network:
    """Builds torchvision's ResNet-50 ("v1.5") without its classifier.

    A block that halves the maps does so in its 3x3 convolution. The paper's block does so in its
    first 1x1 convolution, which ignores three of four pixels.

    Args:
      input_shape: As `resnet18`'s.
      dim: As `resnet18`'s.

    Returns:
      The network, as `resnet18`'s, but its features are [B, 2048].

    Raises:
      ValueError: as `resnet18` does.

    Reference:
      He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """
    return build(input_shape, STEM, bottleneck_block, (3, 4, 6, 3), dim)


def cifar_resnet18(
    input_shape: tuple[int, int, int] = (32, 32, 3), *, dim: int | None = None
) -> Network:
    """Builds the common variant of ResNet-18 for CIFAR.

    It is `resnet18` with a stem of a 3x3 convolution of stride 1 and no pooling. The paper's
    networks for CIFAR differ: they have three stages of 16 to 64 channels. Weights load by
    `names`; files of github.com/kuangliu/pytorch-cifar say `shortcut` for its `downsample`.

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
    return build(input_shape, CIFAR_STEM, basic_block, (2, 2, 2, 2), dim)


def build(
    input_shape: tuple[int, int, int],
    stem: Stem,
    block: Block,
    num_blocks: tuple[int, ...],
    dim: int | None,
) -> Network:
    """Builds a residual network from a stem, a kind of block and the number of blocks.

    Args:
      input_shape: (H, W, C) of the images.
      stem: Layers before the four stages.
      block: (width, strides) -> convolutions of a block; 64 is the first stage's width, and each
        later one doubles it.
      num_blocks: Blocks of each of the four stages.
      dim: D, the width of a linear `bottleneck` after the features; None for the features.

    Raises:
      ValueError: if input_shape is not three positive sizes, or dim not positive.
    """
    check_image_shape(input_shape)
    check_positive(dim=dim)
    module = functools.partial(ResNet, input_shape[2], stem, block, num_blocks, dim)
    return from_nnx(module, input_shape=tuple(input_shape))


def normalize(images: jax.Array) -> jax.Array:
    """Scales images [..., 3] of 0 to 255 to mean 0 and deviation 1 of ImageNet, by channel."""
    mean = jnp.asarray([0.485, 0.456, 0.406], jnp.float32)
    deviation = jnp.asarray([0.229, 0.224, 0.225], jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / deviation


def names(path: str) -> str | None:
    """Returns torchvision's name of a parameter for `weights.load`; None for the bottleneck's.

    Raises:
      ValueError: if the path is not that of a ResNet's parameter.
    """
    match path.split("/"):
        case ["bottleneck", _]:
            return None
        case ["stem", part, leaf]:
            return f"{_PARTS[part]}1.{TORCH_LEAVES[leaf]}"
        case ["stages", stage, block, "layers", number, part, leaf]:
            layer = f"{_PARTS[part]}{int(number) + 1}"
        case ["stages", stage, block, "shortcut", part, leaf]:
            layer = f"downsample.{_IN_SHORTCUT[part]}"
        case _:
            raise InputError(f"{path!r} is no target of a ResNet; names are of another network")
    return f"layer{int(stage) + 1}.{block}.{layer}.{TORCH_LEAVES[leaf]}"
