"""Builds methods that train class proxies beside the network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.losses import rows
from quantjax.methods.base import Method, known_labels
from quantjax.methods.supervised import FitCodec, supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import Codec


def with_proxies(
    network: Network,
    dim: int,
    codec: Codec | FitCodec,
    *,
    scale_of: Callable[[int], float],
    **options: Any,
) -> Method:
    """Builds a method that trains a network and class proxies by the softmax over cosines.

    Args:
      network: Inputs -> [B, D].
      dim: D.
      codec: See `supervised`.
      scale_of: From the number of classes to s, the sharpness of the softmax.
      **options: Of `supervised`.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the proxies [L, D].
    """

    def init_loss(key, batch, num_rows):
        del num_rows
        num_classes = known_labels(batch).shape[1]
        # Of length 1, as the loss divides by it: longer proxies would turn more slowly.
        return rows.unit(jax.random.normal(key, (num_classes, dim), jnp.float32)), {}

    def loss(x, batch, context, proxies, state):
        del context
        scale = scale_of(len(proxies))
        # Without a margin and with trained centres it is the normalised softmax.
        value = losses.orthogonal_cosine(x, batch["label"], proxies, scale=scale, margin=0.0)
        return jnp.mean(value), (state, {})

    return supervised_with_arrays(network, init_loss, loss, codec, **options)
