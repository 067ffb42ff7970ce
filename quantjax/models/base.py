"""A network is two pure functions, whatever library it is written in."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from quantjax.errors import InputError


class Network(NamedTuple):
    """A network as pure functions over nested dicts of arrays.

    Attributes:
      init: `(key, example) -> (params, net_state)`; `example` [B, ...] only checks shapes.
      apply: `(params, net_state, x, *, train, key=None) -> (y, net_state)`; `key` feeds dropout
        and may be None when `train` is False.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]


def from_nnx(constructor: Callable[..., Any]) -> Network:
    """Puts a flax NNX module behind `Network`.

    Params and state become plain nested dicts with string keys, so that checkpoints and loops do
    not depend on flax.

    Args:
      constructor: `(*, rngs) -> module`; the module is called `(x, *, train, rngs=None)` and keeps
        no random state of its own.

    Returns:
      The network. Its `init` raises ValueError when the module does not take the example.

    Raises:
      ValueError: if the module holds random state, or is called otherwise.
    """
    from flax import nnx

    abstract = nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
    if jax.tree.leaves(nnx.state(abstract, nnx.RngState)):
        raise InputError(
            f"{type(abstract).__name__} holds random state; build it without rngs for dropout and "
            "pass rngs at call, so that a step's randomness is a function of seed and step"
        )
    _check_call(abstract)
    graphdef, abstract_params, abstract_state = nnx.split(abstract, nnx.Param, ...)

    def init(key, example):
        _, params, state = nnx.split(constructor(rngs=nnx.Rngs(key)), nnx.Param, ...)
        params, state = (_with_string_keys(nnx.to_pure_dict(part)) for part in (params, state))
        try:
            jax.eval_shape(lambda x: apply(params, state, x, train=False)[0], example)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{type(abstract).__name__} does not take inputs of shape {example.shape}: {error}"
            ) from error
        return params, state

    def apply(params, net_state, x, *, train, key=None):
        parts = [
            _filled(nnx, part, values)
            for part, values in ((abstract_params, params), (abstract_state, net_state))
        ]
        # Without the copy, state written under a gradient belongs to another trace level.
        module = nnx.merge(graphdef, *parts, copy=True)
        y = module(x, train=train, rngs=None if key is None else nnx.Rngs(dropout=key))
        _, state = nnx.split(module, nnx.Param, ...)[1:]
        return y, _with_string_keys(nnx.to_pure_dict(state))

    return Network(init, apply)


def check_inputs(x: jax.Array, input_shape: tuple[int, ...]) -> None:
    """Refuses what is no batch of inputs of one shape, before a layer says so in its own terms.

    Args:
      x: Inputs, due is [B, *input_shape].
      input_shape: Shape of one.

    Raises:
      ValueError: if they are of another shape.
    """
    if x.shape[1:] != input_shape:
        raise InputError(f"inputs must have shape [B, *{input_shape}], got {x.shape}")


def check_positive(**sizes: int | Sequence[int] | None) -> None:
    """Refuses sizes below 1 with a ValueError that names them; None is none."""
    for name, given in sizes.items():
        numbers = given if isinstance(given, Sequence) else [given]
        if any(number is not None and number < 1 for number in numbers):
            raise InputError(f"{name} must be 1 or more, got {given}")


def _check_call(module):
    """Refuses a module that cannot be told whether it trains."""
    call = inspect.signature(type(module).__call__)
    try:
        call.bind(module, None, train=True, rngs=None)
    except TypeError as error:
        raise InputError(
            f"{type(module).__name__} must be called (x, *, train, rngs=None), got a __call__ of "
            f"{call}: {error}"
        ) from None


def _filled(nnx, abstract, values):
    part = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(part, _with_keys_of(nnx.to_pure_dict(abstract), values))
    return part


def _with_string_keys(tree):
    # nnx.List counts its entries with integers, which checkpoints give back as strings.
    if not isinstance(tree, dict):
        return tree
    return {str(key): _with_string_keys(value) for key, value in tree.items()}


def _with_keys_of(template, tree):
    if not isinstance(template, dict):
        return tree
    return {key: _with_keys_of(value, tree[str(key)]) for key, value in template.items()}
