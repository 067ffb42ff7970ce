"""Builds small networks: a perceptron, convolutions of stride 2, and residuals of patches."""

import functools
import itertools
import math

import jax.numpy as jnp
from flax import nnx

from quantjax.errors import InputError
from quantjax.models.base import Network, check_positive, from_nnx
from quantjax.models.layers import BatchNorm

_HE = nnx.initializers.he_normal()  # keeps the variance of activations behind ReLU


class Mlp(nnx.Module):
    """Stacks dense layers with ReLU between them; the last layer is called `bottleneck`."""

    def __init__(
        self, input_shape: tuple[int, ...], hidden: tuple[int, ...], dim: int, *, rngs: nnx.Rngs
    ):
        widths = (math.prod(input_shape), *hidden)
        self.layers = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths))
        self.bottleneck = nnx.Linear(widths[-1], dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps inputs [B, *input_shape] to embeddings [B, dim]."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.bottleneck(x)


def mlp(input_shape: tuple[int, ...], *, hidden: tuple[int, ...], dim: int) -> Network:
    """Builds a multi-layer perceptron that flattens its inputs [B, *input_shape].

    Args:
      input_shape: Shape of one input, such as (28, 28, 1) or (1280,).
      hidden: Widths of the hidden layers, each followed by ReLU.
      dim: D, the width of the embedding.

    Returns:
      The network: [B, *input_shape] float32 -> [B, dim]. Its `apply` raises ValueError for inputs
      of another shape.

    Raises:
      ValueError: if a size is below 1.
    """
    check_positive(input_shape=input_shape, hidden=hidden, dim=dim)
    shape = tuple(input_shape)
    return from_nnx(functools.partial(Mlp, shape, tuple(hidden), dim), input_shape=shape)


class ConvNet(nnx.Module):
    """Stacks stride-2 convolutions with ReLU, a dense layer and a linear `bottleneck`."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        channels: tuple[int, ...],
        kernel_sizes: tuple[int, ...],
        hidden: int,
        dim: int,
        *,
        rngs: nnx.Rngs,
    ):
        height, width, depth = input_shape
        self.convolutions = nnx.List()
        for out, size in zip(channels, kernel_sizes, strict=True):
            self.convolutions.append(
                nnx.Conv(depth, out, (size, size), strides=2, kernel_init=_HE, rngs=rngs)
            )
            # With padding "SAME" a stride of 2 halves the sides, rounded up.
            height, width, depth = -(-height // 2), -(-width // 2), out
        self.dense = nnx.Linear(height * width * depth, hidden, kernel_init=_HE, rngs=rngs)
        self.bottleneck = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps images [B, H, W, C] to embeddings [B, dim]."""
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        x = nnx.relu(self.dense(jnp.reshape(x, (x.shape[0], -1))))
        return self.bottleneck(x)


def convnet(
    input_shape: tuple[int, int, int],
    *,
    channels: tuple[int, ...],
    kernel_sizes: tuple[int, ...],
    hidden: int,
    dim: int,
) -> Network:
    """Builds a small network of stride-2 convolutions, a dense layer and a linear bottleneck.

    Args:
      input_shape: (H, W, C) of the images.
      channels: Widths of the convolutions, each of which halves height and width.
      kernel_sizes: Side of each convolution's square kernel.
      hidden: Width of the dense layer after the convolutions.
      dim: D, the width of the embedding.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim]. It has no batch statistics and no dropout.
      Its `apply` raises ValueError for images of another shape.

    Raises:
      ValueError: if channels and kernel_sizes differ in length, or a size is below 1.
    """
    check_positive(
        input_shape=input_shape,
        channels=channels,
        kernel_sizes=kernel_sizes,
        hidden=hidden,
        dim=dim,
    )
    if len(kernel_sizes) != len(channels):
        raise InputError(
            f"kernel_sizes must have one entry for each of {len(channels)} channels, got "
            f"{kernel_sizes}"
        )
    shape = tuple(input_shape)
    build = functools.partial(ConvNet, shape, tuple(channels), tuple(kernel_sizes), hidden, dim)
    return from_nnx(build, input_shape=shape)


class _Convolution(nnx.Module):
    """Applies a 3x3 convolution, batch normalisation and ReLU."""

    def __init__(self, depth: int, channels: int, *, strides: int = 1, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(
            depth, channels, (3, 3), strides=strides, use_bias=False, kernel_init=_HE, rngs=rngs
        )
        self.norm = BatchNorm(channels, momentum=0.9, rngs=rngs)

    def __call__(self, x, *, train):
        return nnx.relu(self.norm(self.convolution(x), use_running_average=not train))


class _Residual(nnx.Module):
    """Adds the output of two convolutions to their input."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.first = _Convolution(channels, channels, rngs=rngs)
        self.second = _Convolution(channels, channels, rngs=rngs)

    def __call__(self, x, *, train):
        return x + self.second(self.first(x, train=train), train=train)


class PatchResNet(nnx.Module):
    """Stacks patches, stages of convolutions, average pooling and a linear `bottleneck`."""

    def __init__(
        self,
        depth: int,
        patch: int,
        channels: tuple[int, ...],
        num_blocks: tuple[int, ...],
        dim: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.patch = patch
        self.layers = nnx.List()
        # All pixels of a patch become channels of one.
        depth = depth * patch**2
        for stage, (width, count) in enumerate(zip(channels, num_blocks, strict=True)):
            # The patches have reduced the image already, so the first stage keeps its size.
            strides = 1 if stage == 0 else 2
            self.layers.append(_Convolution(depth, width, strides=strides, rngs=rngs))
            self.layers.extend(_Residual(width, rngs=rngs) for _ in range(count))
            depth = width
        self.norm = BatchNorm(depth, momentum=0.9, rngs=rngs)
        self.bottleneck = nnx.Linear(depth, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps images [B, H, W, C] to embeddings [B, dim]."""
        x = space_to_depth(x, self.patch)
        for layer in self.layers:
            x = layer(x, train=train)
        # Averages of ReLU outputs all point the same way: uncentred, cosines would start near 1.
        x = self.norm(jnp.mean(x, axis=(1, 2)), use_running_average=not train)
        return self.bottleneck(x)


def space_to_depth(x, patch: int):
    """Cuts images [B, H, W, C] into patches, [B, H / patch, W / patch, C patch^2]."""
    # Rows of patches, columns of patches, then the pixels inside a patch.
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // patch, width // patch, channels * patch**2
    )


def patch_resnet(
    input_shape: tuple[int, int, int],
    *,
    patch: int,
    channels: tuple[int, ...],
    num_blocks: tuple[int, ...],
    dim: int,
) -> Network:
    """Builds a small residual network that first cuts images into patches, fast on CPUs.

    CPUs multiply few pixels with many channels fast. A stage is a convolution, of stride 2 except
    in the first stage, and residual blocks of two convolutions. Batch normalisation follows each
    convolution and the mean over all pixels.

    Args:
      input_shape: (H, W, C) of the images; patch divides H and W.
      patch: Side of the square patches; the pixels of a patch become channels of one pixel.
      channels: Width of each stage.
      num_blocks: Number of residual blocks of each stage, may be 0.
      dim: D, the width of the embedding.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim]. Its net_state holds batch statistics.
      Its `apply` raises ValueError for images of another shape.

    Raises:
      ValueError: if patch does not divide height and width, num_blocks and channels differ in
        length, or a size is below 1.
    """
    if len(num_blocks) != len(channels):
        raise InputError(
            f"num_blocks must have one entry for each of {len(channels)} channels, got {num_blocks}"
        )
    check_positive(input_shape=input_shape, channels=channels, dim=dim)
    height, width, _ = input_shape
    if patch < 1 or height % patch or width % patch:
        raise InputError(
            f"patch must divide the image's sides, got {patch} for {height}x{width} pixels"
        )
    depth = input_shape[2]
    build = functools.partial(PatchResNet, depth, patch, tuple(channels), tuple(num_blocks), dim)
    return from_nnx(build, input_shape=tuple(input_shape))
