"""Runs training steps on a one-axis device mesh, by automatic sharding or by `jax.pmap`.

`sharded_step` is the default: the batch is a global array split by rows, the partitioner shards
the B x B matrices of the pair losses, and every number equals that of a single device.

Limits of scaling, by `experiments/benchmarks/scaling.py`, for programs compiled for H100s: a pair
loss of B embeddings of width D gathers the embeddings on every device and sums their gradient (a
device receives 277 MB for B = 65,536 and D = 512 on eight devices, 6 ms over a link of 50 GB/s).
The mean of the gradients comes on top, as in every data-parallel step. The B x B matrix is never
sent. Each device holds 1.25 float32 parts of it, 5 B^2 / n bytes: 2.8 GB for B = 65,536 on eight
devices, 21 GB on one device. So 80 GB hold the matrix up to about B = 125,000 on one device and
350,000 on eight (100,000 and 280,000 if two parts are held, as the compiler for CPUs does). Its
products (6 B^2 D / n operations) exceed those of a network of 4 GFLOP an image only if B D is above
7e8. `models.microbatched` makes room for the network; the matrix is not split further.

`pmapped_step` runs the same step under `jax.pmap`, for training loops that are built on it; state
has no device axis. It raises ValueError for a step whose results would differ between devices: a
network with batch statistics or dropout.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from quantjax.batch import Collectives
from quantjax.errors import InputError
from quantjax.run import divergence

AXIS = "data"


class Step(Protocol):
    """Performs one optimization step."""

    def __call__(
        self, train_state: Any, batch: Any, /, *, collectives: Collectives
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Returns `(train_state, metrics)`.

        Args:
          train_state: Before the step.
          batch: The global batch, or this device's rows under `pmapped_step`.
          collectives: How the step gathers rows and averages over the devices.
        """
        ...


class Prepare(Protocol):
    """Changes a global batch before each step, on the device."""

    def __call__(self, train_state: Any, batch: Any, /) -> Any:
        """Returns the batch that the step takes.

        Args:
          train_state: Before the step; its number gives the random key.
          batch: The global batch, as the source gives it.
        """
        ...


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the one-axis device mesh, with axis "data", for training and evaluation.

    Args:
      devices: The devices in order; all of them, process by process, when None.

    Returns:
      A mesh of axis "data" whose axis type is Auto: the partitioner propagates shardings.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are split over the devices along their first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put(mesh: Mesh, tree: Any) -> Any:
    """Copies host arrays whole to every device.

    Args:
      mesh: From `data_mesh`.
      tree: Pytree of arrays, the same in every process.

    Returns:
      The same as global arrays.
    """
    whole = replicated(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(tree, whole)
    # `device_put` would compare the arrays of all processes.
    local_data = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: local_data(whole, np.asarray(x)), tree)


def put_rows(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends a host batch to the devices, split by rows.

    Args:
      mesh: From `data_mesh`.
      batch: Arrays [B, ...], or this process's rows of them as `local_rows` says; B must be a
        multiple of the number of devices. A CPU may use their memory: leave them as they are.

    Returns:
      The same as global arrays.

    Raises:
      ValueError: if the number of devices does not divide B.
    """
    check_divisible(local(mesh), len(next(iter(batch.values()))))
    cut = by_rows(mesh)

    def one(x):
        x = np.asarray(x)
        if mesh.is_multi_process:
            return jax.make_array_from_process_local_data(cut, x)
        # Half of `jax.device_put`'s time for small batches.
        return jax.make_array_from_callback(x.shape, cut, x.__getitem__)

    return {name: one(x) for name, x in batch.items()}


def local_rows(mesh: Mesh, num_rows: int) -> slice:
    """Returns the slice of a global batch's rows that are on this process's devices.

    Args:
      mesh: From `data_mesh`, whose devices stand process by process.
      num_rows: B, a multiple of the number of devices.
    """
    per_device = num_rows // mesh.size
    # The devices stand process by process, so this process's rows are one slice.
    mine = [
        place
        for place, device in enumerate(mesh.devices.flat)
        if device.process_index == jax.process_index()
    ]
    return slice(mine[0] * per_device, (mine[-1] + 1) * per_device)


def local(mesh: Mesh) -> Mesh:
    """Returns a mesh of only this process's devices."""
    return mesh if not mesh.is_multi_process else data_mesh(mesh.local_devices)


def gather(x: jax.Array) -> np.ndarray:
    """Copies a global array to the host as a NumPy array, in every process."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Raises ValueError, naming the nearest multiples, if the devices cannot share a batch evenly.

    A padded training batch would change the mean of the loss.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be 1 or more, got {batch_size}")
    if batch_size % mesh.size:
        below = batch_size // mesh.size * mesh.size
        near = [each for each in (below, below + mesh.size) if each > 0]
        raise InputError(
            f"batch_size must be a multiple of the {mesh.size} devices, got {batch_size}; "
            f"the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}"
        )


def shared(build: Callable[..., Any]) -> Callable[..., Any]:
    """Caches `build` by its arguments, so that equal arguments reuse one compiled function.

    JAX caches compiled programs by the identity of the function, so a function that is built again
    for every call would be compiled again. The latest 64 results are kept. If an argument cannot
    be hashed, `build` runs each time.

    Args:
      build: Builds a function from other functions and numbers.
    """
    known = functools.lru_cache(maxsize=64)(build)

    @functools.wraps(build)
    def call(*args, **kwargs):
        try:
            hash((args, *kwargs.values()))
        except TypeError:
            return build(*args, **kwargs)
        return known(*args, **kwargs)

    return call


def keep_shardings(
    function: Callable[..., Any], like: Callable[..., Any], **options: Any
) -> Callable[..., Any]:
    """Compiles a function so that its results keep the shardings of its arguments.

    Otherwise the partitioner may split a replicated result, and the next call compiles again.

    Args:
      function: A pure function of positional arguments.
      like: Function of the same arguments; returns the pytree whose shardings the result takes. The
        pytree may be a prefix of the result and hold shardings in place of arrays.
      **options: Options of `jax.jit`.

    Returns:
      The compiled function; shardings are read at its first call of each structure.
    """
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(*args):
        kept = like(*args)
        structure = jax.tree.structure(kept)
        if structure not in compiled:
            shardings = jax.tree.map(lambda x: getattr(x, "sharding", x), kept)
            compiled[structure] = jax.jit(function, out_shardings=shardings, **options)
        return compiled[structure](*args)

    return call


@shared
def sharded_step(
    step: Step, mesh: Mesh, prepare: Prepare | None = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiles a step for a global batch that is sharded by rows; donates the train state.

    Args:
      step: See `Step`; its collectives are identities, the batch being global.
      mesh: From `data_mesh`.
      prepare: See `Prepare`; compiled with the step, as one program.

    Returns:
      `(train_state, batch) -> (train_state, metrics)`.
    """

    def prepared(train_state, batch):
        batch = batch if prepare is None else prepare(train_state, batch)
        return step(train_state, batch, collectives=Collectives())

    return keep_shardings(
        prepared, lambda train_state, batch: (train_state, replicated(mesh)), donate_argnums=0
    )


@shared
def pmapped_step(
    step: Step, mesh: Mesh, prepare: Prepare | None = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Compiles a step with `jax.pmap`: each device takes its rows, and gradients are averaged.

    Args:
      step: See `Step`; gather is a tiled all_gather, mean a pmean.
      mesh: From `data_mesh`; one process only.
      prepare: See `Prepare`; compiled as a separate program, since it takes the global batch.

    Returns:
      `(train_state, batch) -> (train_state, metrics)`, the batch global as for `sharded_step`.

    Raises:
      ValueError: if the mesh spans several processes; at the first call, before the step is
        compiled, if results of the step would differ between devices.
    """
    if mesh.is_multi_process:
        raise InputError("pmapped_step runs in one process; take sharded_step for several")
    collectives = Collectives(
        gather=lambda x: jax.lax.all_gather(x, AXIS, tiled=True),
        mean=lambda tree: jax.lax.pmean(tree, AXIS),
    )
    local = jax.jit(functools.partial(step, collectives=collectives))

    def checked(train_state, batch):
        if mesh.size > 1:
            _check_alike(local, train_state, batch, mesh.size)
        return local(train_state, batch)

    mapped = jax.pmap(
        checked,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )

    # The partitioner would choose another sharding than the one that `jax.pmap` insists on.
    @functools.partial(jax.jit, out_shardings=by_rows(mesh))
    def folded(train_state, batch):
        batch = batch if prepare is None else prepare(train_state, batch)
        # Not -1: labels [B, 0] of a source without labels have no size to divide.
        return jax.tree.map(
            lambda x: x.reshape(mesh.size, x.shape[0] // mesh.size, *x.shape[1:]), batch
        )

    return lambda train_state, batch: mapped(train_state, folded(train_state, batch))


def _check_alike(step, train_state, batch, num_devices):
    """Raises ValueError if the results of a step traced under `pmap` differ between devices."""

    def found(batch):
        traced = step.trace(train_state, batch)
        num_local = len(jax.tree.leaves(batch))
        num_shared = len(jax.tree.leaves(train_state))
        marks = [False] * num_shared + [True] * num_local
        return traced.out_info, divergence.find(traced.jaxpr.jaxpr, marks)

    # Batch leaves are local to a device, train-state leaves are shared: see `divergence.find`.
    results, here = found(batch)
    leaves = zip(jax.tree.leaves_with_path(results), here.results, strict=True)
    names = [
        jax.tree_util.keystr(path[1:], simple=True, separator="/")
        for (path, _), differs in leaves
        if differs
    ]
    if names:
        # A step that is skipped where something is not finite makes all results follow a network's.
        culprit = min(names, key=lambda name: "/nets/" not in name)
        raise InputError(
            f"pmapped_step needs a step whose results are the same on every device, but {culprit} "
            "follows each device's own rows (batch statistics?); take sharded_step"
        )
    # A count that grows with the batch means draws for each row; equal draws for all rows, such as
    # a random projection's, do no harm.
    whole = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num_devices * x.shape[0], *x.shape[1:]), x.dtype), batch
    )
    if here.num_drawn and here.num_drawn != found(whole)[1].num_drawn:
        raise InputError(
            "pmapped_step needs a step that draws no random numbers for its rows (dropout?), as "
            "every device would draw the same; take sharded_step"
        )
