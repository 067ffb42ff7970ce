"""Compiles programs for GPUs that this machine need not have, to read but not run the programs.

XLA's compiler for CUDA works from a description of the card. So what a program moves, holds and
adds up in which order can be seen on any machine; how fast it is cannot.
"""

import importlib.util

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from quantjax.errors import MissingPackageError
from quantjax.run import parallel

_PLUGINS = "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"

# An H100 of 80 GB, as the driver describes it.
_CARD = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def can_compile() -> bool:
    """Returns whether XLA's compiler for CUDA is installed."""
    return any(
        importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(name)
        for name in _PLUGINS
    )


def mesh(num_devices: int) -> Mesh:
    """Returns a mesh of H100s on one host, to lower and compile for with `jax.ShapeDtypeStruct`s.

    Args:
      num_devices: Number of GPUs.

    Raises:
      ModuleNotFoundError: if the compiler is not installed.
    """
    if not can_compile():
        raise MissingPackageError(
            "compiling for CUDA takes its compiler: pip install --no-deps jax-cuda12-plugin=="
            f"{jax.__version__} jax-cuda12-pjrt=={jax.__version__} (no card and no driver needed)"
        )
    cards = topologies.get_topology_desc(
        platform="cuda", target_config=_CARD, topology=f"1x1x{num_devices}"
    )
    return parallel.data_mesh(cards.devices)
