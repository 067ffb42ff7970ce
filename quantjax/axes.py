"""Mesh axes in the types of arrays: inside `jax.shard_map`, and on a mesh of Explicit axes."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def vary_alike(*trees: Any) -> Any:
    """Gives arrays inside `jax.shard_map` the same varying axes, all that any of them has.

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
    """Lets a function take arrays that are cut over Explicit axes, as `jax.make_mesh` gives them.

    There JAX asks of every product and look-up how its result is to be cut. Inside the function
    the partitioner chooses, as it does on a mesh of Auto axes; without Explicit axes nothing
    changes.

    Args:
      rows: The argument whose first axis says how the first axis of the results is cut; results
        are whole on every device when None.

    Returns:
      A decorator.
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            leaves, tree = jax.tree.flatten((args, kwargs))
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
