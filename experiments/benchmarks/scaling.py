"""Reports communication and memory of pair losses on many devices, from compiled programs.

    python -m experiments.benchmarks.scaling

The pairwise cosine loss with its gradient, from embeddings [B, D] that are cut by rows over eight
devices, or whole on one: simulated ones, and graphics cards, where their compiler is installed
(see `absent_gpus`). Nothing is run: what collectives bring to a device is summed over the
program's text, working memory is the compiler's `memory_analysis`. Beside them stands arithmetic:
how long the bytes take over a link, and the matrix products on a device, each at a round rate that
is stated in the head of the table.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from quantjax import losses
from quantjax.run import parallel

from . import absent_gpus, timing

_SIZES = tuple((rows, dim) for rows in (4_096, 16_384, 65_536) for dim in (64, 512))
_CLASSES = 32
_LINK, _FLOPS = 50e9, 50e12
"""Bytes a second between two devices, and float operations a second of one."""

_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u8": 1, "pred": 1}
_COLLECTIVE = re.compile(
    r"= (\(?[a-z0-9]+\[.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-done)?\("
)
_ARRAY = re.compile(r"([a-z0-9]+)\[([0-9,]*)\]")


def simulated(num_devices: int) -> Mesh:
    """Returns a mesh of this machine's devices, real or simulated."""
    return parallel.data_mesh(jax.devices()[:num_devices])


def compiled(num_rows: int, dim: int, mesh: Mesh) -> jax.stages.Compiled:
    """Returns the compiled program of the loss and its gradient.

    Args:
      num_rows: B.
      dim: D.
      mesh: Mesh of n devices.
    """
    rows = parallel.by_rows(mesh)

    def loss(z, label):
        similar = label @ label.T > 0
        return jnp.mean(losses.pairwise_cosine(z, z, similar))

    shapes = [
        jax.ShapeDtypeStruct((num_rows, width), jnp.float32, sharding=rows)
        for width in (dim, _CLASSES)
    ]
    whole = parallel.replicated(mesh)
    return jax.jit(jax.value_and_grad(loss), out_shardings=(whole, rows)).lower(*shapes).compile()


def moved(program: jax.stages.Compiled, num_devices: int) -> int:
    """Returns the bytes that a device receives in a step, for ring collectives.

    Args:
      program: From `compiled`.
      num_devices: n. A part of a sum has its addends pass by (n parts), a whole sum is gathered
        after that (2 of it).
    """
    passes = {"reduce-scatter": num_devices, "all-reduce": 2}
    return sum(
        passes.get(kind, 1)
        * sum(
            _BYTES[each] * math.prod(int(side) for side in shape.split(",") if side)
            for each, shape in _ARRAY.findall(result)
        )
        for result, kind in _COLLECTIVE.findall(program.as_text() or "")
    )


def held(program: jax.stages.Compiled) -> int:
    """Returns the bytes of working memory of a program on a device."""
    analysis = program.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def table(seconds: float, *, mesh_of: Callable[[int], Mesh]) -> Iterator[str]:
    """Yields a line for each size, on one device and on eight.

    Args:
      seconds: Not used: nothing is timed.
      mesh_of: Number of devices -> mesh.
    """
    del seconds
    yield (
        f"{mesh_of(1).devices.item().device_kind}; link {_LINK / 1e9:.0f} GB/s, "
        f"{_FLOPS / 1e12:.0f} TFLOP/s a device; matrices: memory in units of B^2 / n float32"
    )
    yield "    B    D  n  moved MB  held MB  matrices  link ms  products ms"
    for num_rows, dim in _SIZES:
        for num_devices in (1, 8):
            program = compiled(num_rows, dim, mesh_of(num_devices))
            matrix = 4 * num_rows**2 / num_devices
            bytes_moved = moved(program, num_devices)
            # Three products of the embeddings, and one of the labels.
            operations = 2 * num_rows**2 * (3 * dim + _CLASSES) / num_devices
            yield (
                f"{num_rows:5d} {dim:4d} {num_devices:2d} {bytes_moved / 1e6:9.1f} "
                f"{held(program) / 1e6:8.0f} {held(program) / matrix:9.2f} "
                f"{1e3 * bytes_moved / _LINK:8.2f} {1e3 * operations / _FLOPS:12.2f}"
            )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    meshes = {"simulated": simulated}
    if absent_gpus.can_compile():
        meshes["cards"] = absent_gpus.mesh
    timing.run_cases(
        __doc__,
        {name: functools.partial(table, mesh_of=mesh_of) for name, mesh_of in meshes.items()},
        peers="no peer: read off the compiled program",
    )
