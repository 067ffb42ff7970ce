"""Converts flax Linen modules into networks."""

from typing import Any

import jax

from quantjax.errors import InputError
from quantjax.models.base import Network, checked_init
from quantjax.models.call_options import training_options


def from_linen(module: Any) -> Network:
    """Converts a flax Linen module into a `Network`.

    The collection "params" is trained. All other collections, such as "batch_stats", are the net
    state: they change in training and stay as they are in evaluation.

    Args:
      module: A `flax.linen.Module`, called `(x)`. If its `__call__` has an argument `train`,
        `training`, `is_training` or `deterministic`, the argument tells it whether it runs in
        training. In training its random numbers, such as "dropout", come from the step's key.

    Returns:
      The network. Its `init` raises ValueError when the module does not take the example.

    Raises:
      ValueError: if `module` is not a Linen module.
    """
    from flax import linen

    if not isinstance(module, linen.Module):
        raise InputError(
            f"from_linen takes a flax.linen.Module, got {module!r:.80}; write "
            "from_linen(MyModule(...)), and from_nnx for a module of flax.nnx"
        )
    call = type(module).__call__

    def init(key, example):
        variables = module.init(key, example, **training_options(call, train=False))
        variables = dict(linen.meta.unbox(variables))
        return variables.pop("params", {}), variables

    def apply(params, net_state, x, *, train, key=None):
        variables = {"params": params, **net_state}
        options = training_options(call, train=train)
        # Linen draws from "params" for every other stream that a module asks for.
        rngs = None if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
        if not train:
            return module.apply(variables, x, rngs=rngs, **options), net_state
        y, changed = module.apply(variables, x, rngs=rngs, mutable=[*net_state], **options)
        return y, {**net_state, **changed}

    return checked_init(type(module).__name__, Network(init, apply))
