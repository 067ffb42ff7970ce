"""Defines a network as two pure functions, and adapts flax NNX modules to it."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from quantjax.errors import InputError

_TRAINS = {"train": True, "training": True, "is_training": True, "deterministic": False}
"""Value in training of each argument by which a module may learn whether it trains."""


class Network(NamedTuple):
    """Represents a network by two pure functions over nested dicts of arrays.

    Attributes:
      init: `(key, example) -> (params, net_state)`; `example` [B, ...] serves to check shapes.
      apply: `(params, net_state, x, *, train, key=None) -> (y, net_state)`; `key` feeds dropout
        and may be None when `train` is False.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]


def from_nnx(
    constructor: Callable[..., Any], *, input_shape: tuple[int, ...] | None = None
) -> Network:
    """Converts a flax NNX module into a `Network`.

    Params and state become plain nested dicts with string keys, so that checkpoints and loops do
    not depend on flax.

    A module whose `__call__` has no argument `train` (nor `training`, `is_training` or
    `deterministic`) runs unchanged in training, and after `module.eval()` in evaluation: BatchNorm
    then uses its running statistics and dropout is off.

    Args:
      constructor: `(*, rngs) -> module`; the module is called `(x)`, with `train` and `rngs` if its
        `__call__` has such arguments. It must not keep random state.
      input_shape: Shape of a single input: `apply` raises ValueError for inputs of another shape,
        clearer than a layer's. Any shape when None.

    Returns:
      The network. Its `init` raises ValueError when the module does not take the example.

    Raises:
      ValueError: if the module keeps random state; the message names the attribute.
    """
    # Shapes alone, without the time and memory of real parameters.
    abstract = nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
    _check_no_random_state(abstract)
    call = type(abstract).__call__
    # A module that is not told whether it trains has to be switched to evaluation.
    in_evaluation = not training_options(call, train=False)
    graphdef, abstract_params, abstract_state = nnx.split(abstract, nnx.Param, ...)

    def init(key, example):
        _, params, state = nnx.split(constructor(rngs=nnx.Rngs(key)), nnx.Param, ...)
        return tuple(_with_string_keys(nnx.to_pure_dict(part)) for part in (params, state))

    def apply(params, net_state, x, *, train, key=None):
        if input_shape is not None and x.shape[1:] != tuple(input_shape):
            raise InputError(f"inputs must have shape [B, *{input_shape}], got {x.shape}")
        parts = [
            _filled(part, values)
            for part, values in ((abstract_params, params), (abstract_state, net_state))
        ]
        # Without the copy, state written under a gradient belongs to another trace level.
        module = nnx.merge(graphdef, *parts, copy=True)
        if in_evaluation and not train:
            module.eval()
        # Only arguments that the module has, since `__call__(x)` alone is allowed too.
        options: dict[str, Any] = training_options(call, train=train)
        if takes(call, "rngs"):
            options["rngs"] = None if key is None else nnx.Rngs(dropout=key)
        y = module(x, **options)
        _, state = nnx.split(module, nnx.Param, ...)[1:]
        return y, _with_string_keys(nnx.to_pure_dict(state))

    return checked_init(type(abstract).__name__, Network(init, apply))


def training_options(call: Callable[..., Any], *, train: bool) -> dict[str, bool]:
    """Returns the keyword arguments that tell a function whether it runs in training.

    Args:
      call: A module's `__call__`, or a function.
      train: Whether the function runs in training.

    Returns:
      Such as {"train": True} or {"deterministic": False}: the arguments of these names that the
      function has, and `train` where it takes any (`**options`). Empty for a function that
      computes the same in training and evaluation.
    """
    there = inspect.signature(call).parameters
    options = {name: train is trains for name, trains in _TRAINS.items() if name in there}
    return options or ({"train": train} if _takes_any(there) else {})


def takes(call: Callable[..., Any], name: str) -> bool:
    """Returns whether a function takes an argument of a given name, or any (`**options`)."""
    there = inspect.signature(call).parameters
    return name in there or _takes_any(there)


def _takes_any(parameters):
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def checked_init(name: str, network: Network) -> Network:
    """Makes a network's `init` raise ValueError if the module does not take the example.

    Args:
      name: Name of the module, for the message.
      network: Any network; its `apply` is only traced on the example, without computing.
    """

    def init(key, example):
        try:
            params, state = network.init(key, example)
            # Some libraries build no layer before the first call, so a wrong shape shows only here.
            jax.eval_shape(lambda x: network.apply(params, state, x, train=False)[0], example)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{name} does not take inputs of shape {example.shape}: {reason}"
            ) from error
        return params, state

    return Network(init, network.apply)


def check_image_shape(input_shape: tuple[int, ...]) -> None:
    """Raises ValueError if the shape of an image is not three positive sizes."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"input_shape must be (height, width, channels), got {input_shape}")


def check_positive(**sizes: int | Sequence[int] | None) -> None:
    """Raises ValueError, with the name, if a size is below 1; None passes."""
    for name, given in sizes.items():
        numbers = given if isinstance(given, Sequence) else [given]
        if any(number is not None and number < 1 for number in numbers):
            raise InputError(f"{name} must be 1 or more, got {given}")


def _check_no_random_state(module):
    """Raises ValueError if a module keeps random streams, whose state changes at every step."""
    owners = dict(nnx.iter_modules(module))
    for path, _ in nnx.to_flat_state(nnx.state(module, nnx.RngState)):
        # Such as ("layers", 1, "rngs", "count"): the owner's path, its attribute, and the rest.
        depth = max(depth for depth in range(len(path)) if path[:depth] in owners)
        owner, attribute = owners[path[:depth]], path[depth]
        place = "".join(
            f"[{name}]" if isinstance(name, int) else f".{name}" for name in path[:depth]
        )
        kind = type(owner).__name__
        # The advice is the very line to write, since flax's own examples keep rngs.
        advice = (
            f"build {kind} without keeping rngs in self.{attribute}, and pass rngs at the call, as "
            "__call__(self, x, *, train, rngs=None) is given them"
        )
        if isinstance(owner, nnx.Dropout):
            advice = (
                f"write nnx.Dropout({owner.rate}) without rngs, and pass rngs at the call: "
                f"self{place}(x, deterministic=not train, rngs=rngs) in a "
                "__call__(self, x, *, train, rngs=None)"
            )
        raise InputError(
            f"{type(module).__name__}{place} ({kind}) keeps random state in {attribute!r}; {advice}"
        )


def _filled(abstract, values):
    # A copy, since flax writes into what it is given. It also turns numbers in strings back.
    part = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(part, values)
    return part


def _with_string_keys(tree):
    # nnx.List counts its entries with integers, which checkpoints give back as strings.
    if not isinstance(tree, dict):
        return tree
    return {str(key): _with_string_keys(value) for key, value in tree.items()}
