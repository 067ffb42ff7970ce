"""Networks that compute in half precision, whatever library they are written in."""

import jax
import jax.numpy as jnp

from quantjax.errors import InputError
from quantjax.models.base import Network

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Names of what a network computes in."""


def in_precision(network: Network, name: str) -> Network:
    """Lets a network compute in a precision, its params, statistics and outputs being float32.

    Params and inputs are rounded on their way in, so gradients arrive in float32, and so does the
    embedding at the loss. Batch statistics are of float32 sums of rounded activations.

    Args:
      network: Any.
      name: "float32", which changes nothing, or "bfloat16".

    Returns:
      The network, its params and state as before.

    Raises:
      ValueError: if the name is another one.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "float32":
        return network
    dtype = PRECISIONS[name]

    def apply(params, net_state, x, *, train, key=None):
        low_params, low_x = _cast((params, x), dtype)
        y, state = network.apply(low_params, net_state, low_x, train=train, key=key)
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, net_state)
        return y.astype(jnp.float32), state

    return Network(network.init, apply)


def _cast(tree, dtype):
    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
