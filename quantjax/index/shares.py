"""Shares the rows of a database among the devices of a mesh, and merges what each one finds."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

Found = tuple[np.ndarray, np.ndarray]  # distances [Q, k] and rows [Q, k], nearest first


def shares(mesh: Mesh | None, num_rows: int) -> list[tuple[jax.Device, slice]]:
    """Returns this process's devices, each with its contiguous share of the rows.

    Args:
      mesh: The devices; this process's first one when None.
      num_rows: N, of the whole database; a device without rows is left out.
    """
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.devices.flat)
    part = -(-num_rows // len(devices))
    starts = range(0, num_rows, part)
    return [
        (device, slice(start, min(start + part, num_rows)))
        for device, start in zip(devices, starts, strict=False)
        if device.process_index == jax.process_index()
    ]


def merged(found: Sequence[Found], top_k: int, mesh: Mesh | None, num_queries: int) -> Found:
    """Merges what the devices of all processes found, each up to k; equal distances by row.

    Args:
      found: Of this process's devices, in order of their rows; row numbers of the whole database.
      top_k: k.
      mesh: The devices that were searched.
      num_queries: Q.
    """
    parts = list(found)
    if mesh is not None and mesh.is_multi_process:
        parts = _of_all_processes(parts, top_k, num_queries)
    if len(parts) == 1:
        return parts[0]
    distances, rows = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    order = np.lexsort((rows, distances))[:, :top_k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def _of_all_processes(parts, top_k, num_queries):
    # Of equal width in every process: what is missing is farther than everything.
    width = top_k * max(1, jax.local_device_count())
    distances = np.full((num_queries, width), np.inf, np.float32)
    rows = np.full((num_queries, width), np.iinfo(np.int64).max)
    start = 0
    for some, numbers in parts:
        distances[:, start : start + some.shape[1]] = some
        rows[:, start : start + some.shape[1]] = numbers
        start += some.shape[1]
    # In halves: JAX would keep 32 bits of a row number.
    everywhere = multihost_utils.process_allgather((distances, rows.view(np.uint32)))
    distances, halves = map(np.asarray, everywhere)
    return [
        (some, np.ascontiguousarray(rows).view(np.int64))
        for some, rows in zip(distances, halves, strict=True)
    ]
