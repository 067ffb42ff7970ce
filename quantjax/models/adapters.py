"""Converts modules of flax Linen, Equinox and Haiku into networks."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, traverse_util

from quantjax.errors import InputError, MissingPackageError
from quantjax.models.base import Network, checked_init, takes, training_options
from quantjax.run.sealing import by_path, name_of


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
    if not isinstance(module, linen.Module):
        raise InputError(
            f"from_linen takes a flax.linen.Module, got {module!r:.80}; write "
            "from_linen(MyModule(...)), and from_nnx for a module of flax.nnx"
        )
    call = type(module).__call__

    def init(key, example):
        # Initialised as in evaluation, which needs no key for dropout.
        variables = module.init(key, example, **training_options(call, train=False))
        variables = dict(linen.meta.unbox(variables))
        return variables.pop("params", {}), variables

    def apply(params, net_state, x, *, train, key=None):
        variables = {"params": params, **net_state}
        options = training_options(call, train=train)
        # Linen draws from "params" for every other stream that a module asks for.
        rngs = None if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
        # Without `mutable`, Linen returns no state.
        if not train:
            return module.apply(variables, x, rngs=rngs, **options), net_state
        y, changed = module.apply(variables, x, rngs=rngs, mutable=[*net_state], **options)
        return y, {**net_state, **changed}

    return checked_init(type(module).__name__, Network(init, apply))


def from_haiku(transformed: Any) -> Network:
    """Converts a transformed Haiku function into a `Network`.

    The net state changes in training and stays as it is in evaluation.

    Args:
      transformed: From `haiku.transform` or `haiku.transform_with_state`, of a function of x. If
        that function has an argument `is_training`, `train`, `training` or `deterministic`, the
        argument tells it whether it runs in training. `haiku.next_rng_key` draws from the step's
        key.

    Returns:
      The network. Its `init` raises ValueError when the function does not take the example.

    Raises:
      ValueError: if `transformed` is not a transformed function.
      ModuleNotFoundError: if Haiku is not installed.
    """
    haiku = _loaded("haiku", "Haiku", install="dm-haiku")
    if not isinstance(transformed, haiku.Transformed | haiku.TransformedWithState):
        raise InputError(
            f"from_haiku takes a transformed function, got {transformed!r:.80}; write "
            "from_haiku(haiku.transform_with_state(function))"
        )
    has_state = isinstance(transformed, haiku.TransformedWithState)

    def init(key, example):
        # Haiku makes the running averages of BatchNorm in training only.
        found = transformed.init(key, example, **training_options(transformed.init, train=True))
        params, net_state = found if has_state else (found, {})
        as_dict = haiku.data_structures.to_mutable_dict
        return as_dict(params), as_dict(net_state)

    def apply(params, net_state, x, *, train, key=None):
        arguments = (params, net_state) if has_state else (params,)
        # `haiku.without_apply_rng` takes the argument away.
        rng = (key,) if "rng" in inspect.signature(transformed.apply).parameters else ()
        options = training_options(transformed.apply, train=train)
        found = transformed.apply(*arguments, *rng, x, **options)
        y, changed = found if has_state else (found, {})
        return y, changed if train else net_state

    # Haiku wraps the function several times; its name is only for messages.
    name = getattr(transformed.apply, "_original_fn", transformed.apply)
    return checked_init(getattr(name, "__name__", "the function"), Network(init, apply))


def from_equinox(constructor: Callable[..., Any] | Any, *, axis_name: str = "batch") -> Network:
    """Converts an Equinox module into a `Network`.

    Equinox modules take one row: `jax.vmap` maps them over the batch. In evaluation
    `equinox.nn.inference_mode` is on and the net state stays as it is. All floating arrays of the
    module are params and are trained. Its other arrays and its `equinox.nn.State` are the net
    state. Both become plain nested dicts with string keys.

    Args:
      constructor: `(*, key) -> module`, such as the module's class, or, for a module with state,
        `(*, key) -> (module, state)`, such as `equinox.nn.make_with_state(MyModule)`. A module or a
        pair `(module, state)` that is built already starts with the arrays that it has. The module
        is called `(x)` or `(x, state)`, with `key` if its `__call__` has that argument. Its x is
        one row: an image is [H, W, C], while Equinox's convolutions take [C, H, W].
      axis_name: Name of the batch axis in the module's BatchNorm.

    Returns:
      The network. Its `init` raises ValueError when the module does not take the example.

    Raises:
      ValueError: if the constructor does not give an Equinox module.
      ModuleNotFoundError: if Equinox is not installed.
    """
    eqx = _loaded("equinox", "Equinox", install="equinox")

    # A dict, so that paths tell the module's arrays from those of its state.
    def build(key):
        built = isinstance(constructor, eqx.Module | tuple)
        found = constructor if built else constructor(key=key)
        module, state = found if isinstance(found, tuple) else (found, None)
        return {"module": module, "state": state}

    abstract = eqx.filter_eval_shape(build, jax.random.key(0))
    kind = type(abstract["module"])
    if not isinstance(abstract["module"], eqx.Module) or not callable(abstract["module"]):
        raise InputError(
            "from_equinox takes an equinox.Module with a __call__, a pair (module, state), or a "
            f"function (*, key) -> module; got a {kind.__name__}"
        )

    def init(key, example):
        arrays = by_path(eqx.filter(build(key), eqx.is_array))
        params, net_state = {}, {}
        for path, leaf in arrays.items():
            name = path.removeprefix("module/")
            if name != path and jnp.issubdtype(leaf.dtype, jnp.inexact):
                params[name] = leaf
            else:
                net_state[path] = leaf
        return _nested(params), _nested(net_state)

    def apply(params, net_state, x, *, train, key=None):
        # Leaves that are no arrays, such as activations, come from the abstract module.
        arrays = {**by_path({"module": params}), **by_path(net_state)}
        built = jax.tree.map_with_path(lambda path, leaf: arrays.get(name_of(path), leaf), abstract)
        module = eqx.nn.inference_mode(built["module"], value=not train)
        one_row = _for_one_row(module, built["state"], training_options(kind.__call__, train=train))
        # Every row has its own key, and all rows share the state.
        keys, axis = (None, None) if key is None else (jax.random.split(key, len(x)), 0)
        mapped = jax.vmap(one_row, in_axes=(0, axis), out_axes=(0, None), axis_name=axis_name)
        y, state = mapped(x, keys)
        # In evaluation the state is returned as given, even if the module wrote to it.
        if not train:
            return y, net_state
        return y, _nested({**by_path(net_state), **by_path({"state": state})})

    return checked_init(kind.__name__, Network(init, apply))


def _loaded(package, title, *, install):
    """Imports a package that no extra of quantjax installs; whoever has modules of it has it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"from_{package} needs {title}, which is not installed: pip install {install}"
        ) from error


def _for_one_row(module, state, options):
    """Returns a function that applies an Equinox module to a row and a key."""

    def one_row(row, key):
        keyed = {**options, "key": key} if takes(type(module).__call__, "key") else options
        return (module(row, **keyed), None) if state is None else module(row, state, **keyed)

    return one_row


def _nested(arrays):
    """Converts a dict from paths to arrays into nested dicts."""
    return traverse_util.unflatten_dict(arrays, sep="/")
