"""Adds a new head to a pretrained backbone and trains all weights."""

import functools

import jax
from flax import nnx

from quantjax.models.base import Network, check_positive, from_nnx
from quantjax.models.norm import BatchNorm


class Head(nnx.Module):
    """Applies batch normalisation, then a linear `bottleneck`."""

    def __init__(self, num_features: int, dim: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(num_features, momentum=0.9, rngs=rngs)
        self.bottleneck = nnx.Linear(num_features, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps features [B, F] to embeddings [B, dim]."""
        del rngs
        # Averages of ReLU outputs all point the same way: uncentred, cosines would start near 1.
        return self.bottleneck(self.norm(x, use_running_average=not train))


def fine_tuned(backbone: Network, num_features: int, *, dim: int) -> Network:
    """Adds a batch-normalized linear head to a backbone whose batch statistics stay frozen.

    All weights of the backbone have gradients, but it always runs with train=False: without
    dropout, and normalized by its published statistics. Statistics of small batches of other images
    make it worse, see `experiments/dqn.py`.

    Args:
      backbone: Images -> [B, F]; its `init` puts the pretrained weights into place.
      num_features: F.
      dim: D, the width of the embedding.

    Returns:
      The network: images -> [B, dim]; params and net_state {"backbone", "head"}.

    Raises:
      ValueError: if a size is below 1.
    """
    check_positive(num_features=num_features, dim=dim)
    head = from_nnx(functools.partial(Head, num_features, dim))

    def init(key, example):
        keys = jax.random.split(key)
        parts = {"backbone": backbone.init(keys[0], example)}
        # The head's `init` checks shapes, so it needs features of the example.
        features, _ = backbone.apply(*parts["backbone"], example, train=False)
        parts["head"] = head.init(keys[1], features)
        return tuple({name: part[i] for name, part in parts.items()} for i in range(2))

    def apply(params, net_state, x, *, train, key=None):
        features, _ = backbone.apply(params["backbone"], net_state["backbone"], x, train=False)
        y, of_head = head.apply(params["head"], net_state["head"], features, train=train, key=key)
        return y, {**net_state, "head": of_head}

    return Network(init, apply)
