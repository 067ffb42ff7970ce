"""Applies a function of batches to many rows of a data source, on all devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from quantjax.batch import Batch, Preprocess, over_views
from quantjax.data.sources import Source
from quantjax.errors import InputError
from quantjax.run import parallel

ROWS = 1024
"""Rows per batch on all devices together, rounded up to the same number on each. Tables of the
training set are padded to a multiple of it, whatever the number of devices, so that a checkpoint
fits every mesh."""


def padded_length(num_rows: int) -> int:
    """Returns the number of rows, rounded up to a multiple of `ROWS`."""
    return -(-num_rows // ROWS) * ROWS


def table_length(num_rows: int, mesh: Mesh) -> int:
    """Returns `padded_length`, rounded up to a multiple of the number of devices."""
    return -(-padded_length(num_rows) // mesh.size) * mesh.size


def apply_to_rows(
    function: Callable[[Any, Any, Batch], Any],
    params: Any,
    state: Any,
    source: Source,
    rows: np.ndarray,
    *,
    preprocess: Preprocess,
    mesh: Mesh,
) -> Any:
    """Applies a method's `embed` or `collect` function to rows of a source.

    Args:
      function: `(params, state, batch) -> pytree of [B, ...]`; views are averaged.
      params: The method's params.
      state: The method's state.
      source: Source of the images.
      rows: Row numbers, [N] int64.
      preprocess: `batch -> batch`, on device.
      mesh: From `run.parallel.data_mesh`.

    Returns:
      Pytree of [`table_length` of N, ...], sharded by rows over the mesh; rows from N on are
      meaningless. Every device computes the rows that it stores, so no row is transferred.

    Raises:
      ValueError: if there are no rows.
    """
    if len(rows) == 0:
        raise InputError("there are no rows to embed; the split is empty")
    compiled = _compiled(function, preprocess, mesh)
    outputs = []
    for positions in _positions(len(rows), mesh):
        mine = positions[parallel.local_rows(mesh, len(positions))]
        mask = mine < len(rows)
        # Padding repeats the first row, so that every batch has one shape and compiles once.
        batch = {**source[rows[np.where(mask, mine, 0)]], "mask": mask}
        outputs.append(compiled(params, state, parallel.put_rows(mesh, batch)))
    return _joiner(mesh, table_length(len(rows), mesh) // mesh.size)(outputs)


def embed(
    function: Callable[[Any, Any, Batch], Any],
    params: Any,
    state: Any,
    source: Source,
    rows: np.ndarray,
    *,
    preprocess: Preprocess,
    mesh: Mesh,
) -> np.ndarray:
    """Computes the embeddings of rows of a source; see `apply_to_rows` for the arguments.

    Returns:
      Embeddings [N, D] on the host, in every process.
    """
    out = apply_to_rows(function, params, state, source, rows, preprocess=preprocess, mesh=mesh)
    return parallel.gather(out)[: len(rows)]


def _positions(num_rows, mesh):
    """Yields the rows of each batch, [about `ROWS`]: the next rows of every device's part."""
    length = table_length(num_rows, mesh)
    width = -(-ROWS // mesh.size)
    # Row i of the table is the part of device i, so a column block has rows for every device.
    table = np.arange(length).reshape(mesh.size, -1)
    # A number of devices that does not divide `ROWS` leaves the last block narrower. It is filled
    # with padding, so that every batch has one shape.
    table = np.pad(table, ((0, 0), (0, -table.shape[1] % width)), constant_values=length)
    for part in np.split(table, table.shape[1] // width, axis=1):
        yield part.ravel()


@parallel.shared
def _compiled(function, preprocess, mesh):
    return jax.jit(
        lambda params, state, batch: over_views(function)(params, state, preprocess(batch)),
        out_shardings=parallel.by_rows(mesh),
    )


@parallel.shared
def _joiner(mesh, per_device):
    rows = PartitionSpec(parallel.AXIS)

    def join(parts):
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:per_device], *parts)

    return jax.jit(jax.shard_map(join, mesh=mesh, in_specs=rows, out_specs=rows))
