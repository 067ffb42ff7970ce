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
"""Rows per batch. Tables of the training set are padded to a multiple of it, so that a checkpoint
fits every mesh whose size divides it."""


def padded_length(num_rows: int) -> int:
    """Returns the number of rows, rounded up to a multiple of `ROWS`."""
    return -(-num_rows // ROWS) * ROWS


def check_mesh(mesh: Mesh) -> None:
    """Raises ValueError if the number of devices does not divide `ROWS`."""
    if ROWS % mesh.size:
        raise InputError(
            f"rows are embedded {ROWS} at a time, which {mesh.size} devices cannot share; take a "
            "number of devices that is a power of two"
        )


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
      Pytree of [N padded to a multiple of `ROWS`, ...], sharded by rows over the mesh; rows from N
      on are meaningless. Every device computes the rows that it stores, so no row is transferred.

    Raises:
      ValueError: if there are no rows, or `ROWS` is no multiple of the number of devices.
    """
    if len(rows) == 0:
        raise InputError("there are no rows to embed; the split is empty")
    check_mesh(mesh)
    compiled = _compiled(function, preprocess, mesh)
    outputs = []
    for positions in _positions(len(rows), mesh):
        mine = positions[parallel.local_rows(mesh, ROWS)]
        mask = mine < len(rows)
        # Padding repeats the first row, so that every batch has one shape and compiles once.
        batch = {**source[rows[np.where(mask, mine, 0)]], "mask": mask}
        outputs.append(compiled(params, state, parallel.put_rows(mesh, batch)))
    return _joiner(mesh)(outputs)


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
    """Yields the rows of each batch, [ROWS]: the next rows of every device's part of the table."""
    # Row i of the table is the part of device i, so a column block has rows for every device.
    table = np.arange(padded_length(num_rows)).reshape(mesh.size, -1)
    for part in np.split(table, padded_length(num_rows) // ROWS, axis=1):
        yield part.ravel()


@parallel.shared
def _compiled(function, preprocess, mesh):
    return jax.jit(
        lambda params, state, batch: over_views(function)(params, state, preprocess(batch)),
        out_shardings=parallel.by_rows(mesh),
    )


@parallel.shared
def _joiner(mesh):
    rows = PartitionSpec(parallel.AXIS)

    def join(parts):
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    return jax.jit(jax.shard_map(join, mesh=mesh, in_specs=rows, out_specs=rows))
