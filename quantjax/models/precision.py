"""Makes networks of any library compute in half precision."""

import jax
import jax.numpy as jnp

from quantjax.errors import InputError
from quantjax.models.base import Network

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Number types that a network may compute in, by name."""


def in_precision(network: Network, name: str) -> Network:
    """Makes a network compute in a given precision; params, statistics and outputs stay float32.

    Params and inputs are rounded before the network, so gradients and embeddings are float32. Batch
    statistics are float32 sums of rounded activations.

    Args:
      network: Any network.
      name: "float32", which changes nothing, or "bfloat16".

    Returns:
      The network, with the same params and state.

    Raises:
      ValueError: if the name is neither.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "float32":
        return network
    dtype = PRECISIONS[name]

    def apply(params, net_state, x, *, train, key=None):
        low_params, low_x = _cast((params, x), dtype)
        y, state = network.apply(low_params, net_state, low_x, train=train, key=key)
        # The state must keep its types, or the next step would compile again.
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, net_state)
        return y.astype(jnp.float32), state

    return Network(network.init, apply)


def _cast(tree, dtype):
    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
