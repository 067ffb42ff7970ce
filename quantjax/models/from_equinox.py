"""Converts Equinox modules into networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from quantjax.errors import InputError, MissingPackageError
from quantjax.models.base import Network, checked_init
from quantjax.models.call_options import takes, training_options


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
    try:
        import equinox as eqx
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "from_equinox needs Equinox, which is not installed: pip install equinox"
        ) from error

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
    has_state = abstract["state"] is not None

    def init(key, example):
        del example
        params, net_state = {}, {}
        for path, leaf in _by_path(eqx.filter(build(key), eqx.is_array)).items():
            if path[0] == "module" and jnp.issubdtype(leaf.dtype, jnp.inexact):
                params[path[1:]] = leaf
            else:
                net_state[path] = leaf
        return _nested(params), _nested(net_state)

    def apply(params, net_state, x, *, train, key=None):
        arrays = {**_by_path({"module": params}), **_by_path(net_state)}
        built = jax.tree.map_with_path(lambda path, leaf: arrays.get(_names(path), leaf), abstract)
        module = eqx.nn.inference_mode(built["module"], value=not train)
        options = training_options(kind.__call__, train=train)

        def one_row(row, key):
            keyed = {**options, "key": key} if takes(kind.__call__, "key") else options
            if has_state:
                return module(row, built["state"], **keyed)
            return module(row, **keyed), None

        keys, axis = (None, None) if key is None else (jax.random.split(key, len(x)), 0)
        mapped = jax.vmap(one_row, in_axes=(0, axis), out_axes=(0, None), axis_name=axis_name)
        y, state = mapped(x, keys)
        # In evaluation the state is returned as given, even if the module wrote to it.
        if not train:
            return y, net_state
        return y, _nested({**_by_path(net_state), **_by_path({"state": state})})

    return checked_init(kind.__name__, Network(init, apply))


def _names(path):
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _by_path(tree):
    """Flattens a pytree into a dict from paths, tuples of names, to leaves."""
    return {_names(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _nested(leaves):
    """Converts a dict from paths to leaves into nested dicts; undoes `_by_path`."""
    tree: dict[str, Any] = {}
    for (*way, last), leaf in leaves.items():
        part = tree
        for name in way:
            part = part.setdefault(name, {})
        part[last] = leaf
    return tree
