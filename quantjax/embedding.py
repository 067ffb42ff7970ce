"""Runs a function of batches over rows of a source, on the mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import parallel
from quantjax.data.batches import padded
from quantjax.data.sources import Source
from quantjax.methods.base import Batch, over_views

ROWS = 1024
"""Rows per batch, and what tables of the training set are padded to, so that checkpoints move
between meshes of any size that divides it."""


def padded_length(num_rows: int) -> int:
    """Returns the next multiple of `ROWS`."""
    return -(-num_rows // ROWS) * ROWS


def apply_to_rows(
    function: Callable[[Any, Any, Batch], Any],
    params: Any,
    state: Any,
    source: Source,
    rows: np.ndarray,
    *,
    preprocess: Callable[[Batch], Batch],
    mesh: Mesh,
) -> Any:
    """Applies a method's `embed` or `collect` to rows of a source.

    Args:
      function: `(params, state, batch) -> pytree of [B, ...]`; views are averaged.
      params: The method's params.
      state: The method's state.
      source: Where the images are.
      rows: Which of them, [N] int64.
      preprocess: `batch -> batch`, on device.
      mesh: From `parallel.data_mesh`.

    Returns:
      Pytree of [N padded to a multiple of `ROWS`, ...]; rows from N on are meaningless.

    Raises:
      ValueError: if there are no rows, or `ROWS` is no multiple of the number of devices.
    """
    if len(rows) == 0:
        raise ValueError("there are no rows to embed; the split is empty")
    compiled = _compiled(function, preprocess)
    outputs = []
    for positions, mask in zip(*padded(len(rows), ROWS), strict=True):
        batch = {**source[rows[positions]], "mask": mask}
        outputs.append(compiled(params, state, parallel.put_rows(mesh, batch)))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def embed(
    function: Callable[[Any, Any, Batch], Any],
    params: Any,
    state: Any,
    source: Source,
    rows: np.ndarray,
    *,
    preprocess: Callable[[Batch], Batch],
    mesh: Mesh,
) -> np.ndarray:
    """Embeds rows of a source; see `apply_to_rows`.

    Returns:
      Embeddings [N, D] on the host.
    """
    out = apply_to_rows(function, params, state, source, rows, preprocess=preprocess, mesh=mesh)
    return np.asarray(out)[: len(rows)]


@functools.lru_cache(maxsize=32)
def _compiled(function, preprocess):
    # jit knows a function by its identity, so the composed one must be the same in every call.
    return jax.jit(
        lambda params, state, batch: over_views(function)(params, state, preprocess(batch))
    )
