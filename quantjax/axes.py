"""Handles mesh axes in array types, inside `jax.shard_map` and on meshes with Explicit axes."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def vary_alike(*trees: Any) -> Any:
    """Makes arrays inside `jax.shard_map` vary over the union of their mesh axes.

    With `check_vma=True` the carry of a loop, and the cotangents of a `jax.custom_vjp`, must vary
    over the axes that their start and their primals vary over. The gradient of an array that did
    not vary before is summed over the devices, as it should be.

    Args:
      *trees: Arrays, or pytrees of them.

    Returns:
      The same arrays; unchanged outside of `shard_map`, or with `check_vma=False`.
    """
    axes = set().union(*(_varying(leaf) for leaf in jax.tree.leaves(trees)))

    def widened(leaf):
        new = tuple(sorted(axes - _varying(leaf)))
        return jax.lax.pcast(leaf, new, to="varying") if new else leaf

    return jax.tree.map(widened, trees)


def _varying(leaf):
    return set(jax.typeof(leaf).manual_axis_type.varying)


def on_explicit_mesh(rows: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Lets a function take arrays sharded over Explicit mesh axes, the default of `jax.make_mesh`.

    On Explicit axes JAX requires a sharding for the result of every product and look-up. Inside
    the decorated function the partitioner chooses, as it does on a mesh of Auto axes. Without
    Explicit axes nothing changes.

    Args:
      rows: Name of the argument whose first axis gives the sharding of the results' first axis;
        None replicates the results on every device.

    Returns:
      A decorator.
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            leaves, tree = jax.tree.flatten((args, kwargs))
            # Only arrays go through `auto_axes`; other arguments stay Python values.
            is_array = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]
            arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
            meshes = {jax.typeof(x).sharding.mesh for x in arrays if isinstance(x, jax.Array)}
            mesh = next((each for each in meshes if each.explicit_axes), None)
            if mesh is None:
                return function(*args, **kwargs)

            def of_arrays(*arrays):
                given = iter(arrays)
                pairs = zip(leaves, is_array, strict=True)
                args, kwargs = tree.unflatten(next(given) if a else leaf for leaf, a in pairs)
                return function(*args, **kwargs)

            cut = None
            if rows is not None:
                like = jax.tree.leaves(signature.bind(*args, **kwargs).arguments[rows])[0]
                cut = (*jax.typeof(like).sharding.spec, None)[0]
            return jax.sharding.auto_axes(
                of_arrays,
                axes=mesh.explicit_axes,
                out_sharding=NamedSharding(mesh, PartitionSpec(cut)),
            )(*arrays)

        return call

    return decorate
