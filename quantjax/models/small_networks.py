"""Builds small networks: a perceptron, and convolutions of stride 2 with dense layers."""

import functools
import itertools
import math

import jax.numpy as jnp
from flax import nnx

from quantjax.errors import InputError
from quantjax.models.base import Network, check_inputs, check_positive, from_nnx

_HE = nnx.initializers.he_normal()  # keeps the variance of activations behind ReLU


class Mlp(nnx.Module):
    """Stacks dense layers with ReLU between them; the last layer is called `bottleneck`."""

    def __init__(
        self, input_shape: tuple[int, ...], hidden: tuple[int, ...], dim: int, *, rngs: nnx.Rngs
    ):
        self.input_shape = input_shape
        widths = (math.prod(input_shape), *hidden)
        self.layers = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths))
        self.bottleneck = nnx.Linear(widths[-1], dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps inputs [B, *input_shape] to embeddings [B, dim]."""
        del train, rngs  # there is no dropout and no batch normalisation
        check_inputs(x, self.input_shape)
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
    return from_nnx(functools.partial(Mlp, tuple(input_shape), tuple(hidden), dim))


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
        self.input_shape = input_shape
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
        del train, rngs
        check_inputs(x, self.input_shape)
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
    return from_nnx(
        functools.partial(
            ConvNet, tuple(input_shape), tuple(channels), tuple(kernel_sizes), hidden, dim
        )
    )
