"""One mesh with one axis, and two ways to run a step on it.

`sharded_step` is the default: the batch is one global array cut by rows, the partitioner shards
the B x B matrices of the pair losses, and every number equals the one of a single device.
`pmapped_step` runs the same step under `jax.pmap`, for loops that are built on it; networks with
batch statistics or dropout would differ there, and state has no device axis.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from quantjax.methods.base import Collectives

AXIS = "data"

Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
"""`(train_state, batch, *, collectives) -> (train_state, metrics)`"""


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the one-axis mesh that everything here runs on.

    Args:
      devices: The devices in order; all of them when None.

    Returns:
      A mesh of axis "data" whose axis type is Auto: the partitioner propagates shardings.
    """
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays cut along their first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put_rows(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends a host batch to the devices, cut by rows.

    Args:
      mesh: From `data_mesh`.
      batch: Arrays [B, ...]; B must be a multiple of the number of devices.

    Returns:
      The same as global arrays.

    Raises:
      ValueError: if B is no such multiple.
    """
    check_divisible(mesh, len(next(iter(batch.values()))))
    return jax.device_put(batch, by_rows(mesh))


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Refuses a batch that the devices cannot share evenly with a ValueError."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the {mesh.size} devices, got {batch_size}"
        )


def keep_shardings(
    function: Callable[..., Any], like: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    """Compiles a function whose results stay sharded as its arguments were.

    Left alone, the partitioner may cut a replicated result, and the next call would compile anew.

    Args:
      function: A pure function of positional arguments.
      like: Of the same arguments, the pytree whose shardings the result takes. It may be a prefix
        of the result and hold shardings in place of arrays.
      **options: For `jax.jit`.

    Returns:
      The compiled function; shardings are read at its first call.
    """
    compiled = None

    def call(*args):
        nonlocal compiled
        if compiled is None:
            shardings = jax.tree.map(lambda x: getattr(x, "sharding", x), like(*args))
            compiled = jax.jit(function, out_shardings=shardings, **options)
        return compiled(*args)

    return call


def sharded_step(step: Step, mesh: Mesh) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiles a step for a global batch cut by rows; donates the train state.

    Args:
      step: See `Step`; its collectives are identities, the batch being global.
      mesh: From `data_mesh`.

    Returns:
      `(train_state, batch) -> (train_state, metrics)`.
    """
    return keep_shardings(
        functools.partial(step, collectives=Collectives()),
        lambda train_state, batch: (train_state, replicated(mesh)),
        donate_argnums=0,
    )


def pmapped_step(step: Step, mesh: Mesh) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiles the same step with `jax.pmap`: local rows, gathered columns, mean gradients.

    Args:
      step: See `Step`; gather is a tiled all_gather, mean a pmean.
      mesh: From `data_mesh`; one process only.

    Returns:
      `(train_state, batch) -> (train_state, metrics)`, the batch global as for `sharded_step`.
    """
    collectives = Collectives(
        gather=lambda x: jax.lax.all_gather(x, AXIS, tiled=True),
        mean=lambda tree: jax.lax.pmean(tree, AXIS),
    )
    mapped = jax.pmap(
        functools.partial(step, collectives=collectives),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )

    def run(train_state, batch):
        folded = jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)
        return mapped(train_state, folded)

    return run
