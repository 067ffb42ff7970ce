"""Builds a multi-layer perceptron for features and small images."""

import functools
import itertools
import math

from flax import nnx

from quantjax.models.base import Network, check_inputs, check_positive, from_nnx


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
        del train, rngs
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
