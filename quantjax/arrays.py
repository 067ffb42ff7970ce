"""Handles arrays at the edge of a function: shapes, finite values, masked rows and mesh axes."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from quantjax.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)


def check_shape(name: str, x: jax.Array | np.ndarray, *due: int | str, beside: str = "") -> None:
    """Raises ValueError if an array has another number of axes, or an axis of another size.

    Args:
      name: Name of the array in the message.
      x: The array.
      *due: Size of each axis; a letter stands for any size.
      beside: Text behind the required shape, such as " for codebooks (2, 4, 3)".

    Raises:
      ValueError: with the array's name, the required shape and the given shape.
    """
    sizes = zip(due, x.shape, strict=False)
    if x.ndim == len(due) and all(isinstance(d, str) or d == size for d, size in sizes):
        return
    letters = any(isinstance(size, str) for size in due)
    text = f"[{', '.join(map(str, due))}]" if letters else f"{due}"
    raise InputError(f"{name} must have shape {text}{beside}, got {x.shape}")


def check_mask(mask: jax.Array | np.ndarray | None, num_rows: int) -> None:
    """Raises ValueError if a mask of rows is neither None nor [N].

    Args:
      mask: Whether each row counts, [N] bool, or None.
      num_rows: N.

    Raises:
      ValueError: with the required shape and the given shape.
    """
    if mask is not None:
        check_shape("mask", mask, num_rows)


def masked_rows(
    x: jax.Array | np.ndarray, mask: jax.Array | None, name: str = "x"
) -> tuple[jax.Array, jax.Array]:
    """Returns the rows as float32 with masked rows set to zero, and the mask.

    Args:
      x: Rows [N, ...] of any type.
      mask: Whether each row counts, [N] bool; all when None.
      name: Name of `x` in the error message.

    Returns:
      Rows [N, ...] float32 and mask [N] bool.

    Raises:
      ValueError: if the mask has another shape, or a row that counts holds NaN or infinity.
    """
    check_mask(mask, len(x))
    check_finite(name, x, mask)
    x = jnp.asarray(x, jnp.float32)
    if mask is None:
        return x, jnp.ones(len(x), bool)
    mask = jnp.asarray(mask, bool)
    # Selected and not multiplied by a weight: 0 times NaN is NaN.
    return jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), mask


def check_finite(name: str, x: jax.Array | np.ndarray, mask: jax.Array | None = None) -> None:
    """Raises ValueError if an array holds NaN, infinity or a number beyond float32's range.

    Under `jit`, `vmap` or `grad` the values are unknown, and the check passes. It also passes for
    an array of which this process holds only a part.

    Args:
      name: Name of the array in the message.
      x: Numbers of any shape and type; rows are along the first axis.
      mask: Entries to check, bool of x's shape or of its leading axes; all when None.

    Raises:
      ValueError: with the array's name, the first bad row and the number of bad rows.
    """
    if not can_be_seen(x) or not can_be_seen(mask):
        return
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return
    # A float64 beyond float32's range becomes infinite as soon as JAX converts it.
    finite = np.isfinite(x) if x.dtype.itemsize <= 4 else np.abs(x) <= _LARGEST
    if finite.all():
        return
    bad = ~finite
    if mask is not None:
        bad = bad & np.asarray(mask, bool).reshape(np.shape(mask) + (1,) * (x.ndim - np.ndim(mask)))
    places = np.argwhere(bad)
    if not len(places):
        return
    value = "NaN" if np.isnan(x[tuple(places[0])]) else f"{x[tuple(places[0])]}"
    rows = len(np.unique(places[:, 0])) if x.ndim else 1
    where = f" in row {places[0][0]} ({rows} of {len(x)} rows)" if x.ndim else ""
    raise InputError(
        f"{name} must be numbers, got {value}{where}: look for a diverged loss, or for "
        "numbers that float16 or float32 cannot hold"
    )


def check_positive(name: str, value: jax.Array | np.ndarray | float) -> None:
    """Raises ValueError if a number, such as a temperature, is not above 0 or not finite.

    Args:
      name: Name of the number in the message.
      value: A number or an array of numbers; a traced value always passes.

    Raises:
      ValueError: with the number's name and value.
    """
    if can_be_seen(value) and not np.all((np.asarray(value) > 0) & np.isfinite(np.asarray(value))):
        raise InputError(f"{name} must be above 0 and finite, got {value}")


def can_be_seen(x: jax.Array | np.ndarray | float | None) -> bool:
    """Returns whether this process can read all values of an array now.

    Args:
      x: An array, a number or None.

    Returns:
      False for a tracer, and for an array that is partly on other processes' devices.
    """
    return not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)


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
