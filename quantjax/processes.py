"""Several processes, one program: how they start, agree, and put together what each has.

Every process runs the same program and takes the same steps. What is decided by one of them alone
(a signal, a file that is there) is agreed on here first.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from quantjax.errors import InputError, is_one_line

_QUIET = 0.25  # seconds between two agreements
_MOST_QUIET = 16  # steps between them, however short


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool | None = None,
) -> None:
    """Joins the other processes of a run, if there are others; before anything else of JAX.

    Slurm (a step of several tasks), Kubernetes (an indexed job, with the package kubernetes), Open
    MPI and Cloud TPU hosts that name each other are found by themselves.

    Args:
      coordinator: HOST:PORT of process 0, to start by hand.
      num_processes: How many there are, by hand.
      process_id: Which one this is, by hand.
      detect: True to let JAX look for a cluster although none was seen here, False to run alone
        although one was.

    Raises:
      ValueError: if only a part of the three is given, they do not fit, or the others do not come.
    """
    by_hand = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id
    }  # fmt: skip
    missing = [name for name, value in by_hand.items() if value is None]
    if missing and len(missing) < len(by_hand):
        raise InputError(f"{', '.join(by_hand)} go together; missing: {', '.join(missing)}")
    if missing and not (in_a_cluster(os.environ) if detect is None else detect):
        return
    if not missing:
        _check_by_hand(coordinator, num_processes, process_id)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method=None if missing else "deactivate",
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the processes did not find each other: {reason}") from None
    if missing and has_all_gpus(os.environ):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def repeat_bits() -> None:
    """Has GPUs add in one order, so that every run has the same bits; before anything else of JAX.

    CPUs and TPUs do so anyway. XLA then sorts what it would scatter, and tries no kernels out.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def leave(status: int, *, at_once: bool = False) -> NoReturn:
    """Ends a process that failed, without waiting for the others, who would wait for it.

    Args:
      status: Exit code.
      at_once: Whether one that is alone waits for none of its threads either.
    """
    if at_once or several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def several() -> bool:
    """Tells whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def in_a_cluster(environment: Any) -> bool:
    """Tells whether a launcher started this process as one of several.

    Args:
      environment: Such as `os.environ`.
    """
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return (
        any(environment.get(name, "").isdigit() and int(environment[name]) > 1 for name in tasks)
        or {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def has_all_gpus(environment: Any) -> bool:
    """Tells whether a process that a launcher started has all GPUs that it sees to itself.

    It has if it is alone on its host, or was given a single one to see. Of several on a host, JAX
    lets each see the one that has its number there.

    Args:
      environment: Such as `os.environ`; JAX_LOCAL_DEVICE_IDS in it has the last word.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    if environment.get("CUDA_VISIBLE_DEVICES", ",").strip(",").isdigit():
        return True
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:  # its processes have Slurm's variables too
        return environment["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    # Such as "1(x2)" for a task on each of two hosts.
    per_host = re.sub(r"\(x\d+\)", "", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return set(per_host.split(",")) == {"1"}


def is_first() -> bool:
    """Tells whether this process is the one that writes."""
    return jax.process_index() == 0


def number() -> int:
    """Returns which process this is."""
    return jax.process_index()


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in process 0 alone, and returns its result in every process.

    Args:
      function: Returns JSON.

    Returns:
      Its result, in every process.

    Raises:
      ValueError: in every process, if the function raised an error of `quantjax.errors`, or of a
        disk that cannot be written to, with its message.
      RuntimeError: in the other processes, if it raised any other error, which process 0 raises.
    """
    if jax.process_count() == 1:
        return function()
    said, caught = b"", None
    if is_first():
        try:
            answer = {"result": function()}
        except Exception as error:  # told to the others, who would wait for ever
            caught = error
            answer = {"error": str(error), "type": type(error).__name__}
            answer["one line"] = is_one_line(error)
        said = json.dumps(answer).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    sent = np.frombuffer(said.ljust(length), np.uint8)
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent))))
    if "error" not in answer:
        return answer["result"]
    if answer["one line"]:
        raise InputError(answer["error"]) from caught
    if caught is not None:
        raise caught
    raise RuntimeError(f"process 0 failed, {answer['type']}: {answer['error']}")


def all_agree(number: int) -> int:
    """Returns the largest of the processes' numbers, in every process.

    Args:
      number: 0 for "all is well", more for what is not.
    """
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def check_same(about: dict[str, Any]) -> None:
    """Makes sure that all processes run the same.

    Args:
      about: What must not differ (JSON).

    Raises:
      ValueError: in every process, naming the keys where they know them, if it differs.
    """
    if jax.process_count() == 1:
        return
    here = json.loads(json.dumps(about))
    first = from_first(lambda: about)
    differing = sorted(key for key in {**first, **here} if first.get(key) != here.get(key))
    if all_agree(len(differing) > 0):
        told = [f"{key} {here.get(key)!r}, not {first.get(key)!r}" for key in differing[:3]]
        raise InputError(
            f"process {jax.process_index()} runs with {', '.join(told)} of process 0"
            if told
            else "another process runs with other settings than process 0"
        )


def spans(mesh: Mesh | None) -> bool:
    """Tells whether a mesh has devices of other processes."""
    return mesh is not None and mesh.is_multi_process


def share(num_rows: int) -> slice:
    """Returns this process's part of rows that any process could work on."""
    bounds = np.linspace(0, num_rows, jax.process_count() + 1).astype(int)
    return slice(int(bounds[jax.process_index()]), int(bounds[jax.process_index() + 1]))


def join(x: np.ndarray, num_rows: int) -> np.ndarray:
    """Puts the parts of `share` together, every bit as it was.

    Args:
      x: Rows of this process's share, [n, ...], of any type.
      num_rows: Rows in all.

    Returns:
      All rows [num_rows, ...], in every process.
    """
    bounds = np.linspace(0, num_rows, jax.process_count() + 1).astype(int)
    sizes = np.diff(bounds)
    # As bytes: sent as they are, float64 would arrive as float32.
    width = x.dtype.itemsize * math.prod(x.shape[1:])
    raw = (
        np.ascontiguousarray(x)
        .reshape(len(x), width // x.dtype.itemsize)
        .view(np.uint8)
        .reshape(len(x), width)
    )
    raw = np.pad(raw, ((0, sizes.max() - len(raw)), (0, 0)))
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    whole = np.concatenate([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return np.ascontiguousarray(whole).view(x.dtype).reshape(num_rows, *x.shape[1:])


def on_host(tree: Any) -> Any:
    """Returns a pytree whose arrays every process can use by itself.

    Args:
      tree: Arrays that are whole on every device, or not of other processes at all.
    """

    def local(x):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return np.asarray(x)
        return x

    return jax.tree.map(local, tree)


class Agreement:
    """Lets all processes stop at one step although a signal reaches them at different ones.

    Each says its number at every step. Every quarter of a second, or at every step that takes
    longer, the numbers travel beside the step's own work, and the largest is known to all when
    they travel the next time. How many steps that is, is agreed on in the same way. A process that
    is alone hears itself at once.
    """

    def __init__(self, mesh: Mesh):
        self._alone = not spans(mesh)
        self._pending: jax.Array | None = None
        rows, whole = (NamedSharding(mesh, PartitionSpec(*cut)) for cut in (mesh.axis_names, ()))
        self._sharding = rows
        self._largest = jax.jit(lambda said: jnp.max(said, axis=0), out_shardings=whole)
        self._size = mesh.size
        self._every, self._steps, self._since = 1, 0, time.perf_counter()

    def last(self, number: int | None) -> int | None:
        """Waits for all, and returns the number that is agreed on when nothing more will be said.

        Args:
          number: 1 or more; None for nothing.
        """
        return number if self._alone else all_agree(number or 0) or None

    def say(self, number: int | None) -> int | None:
        """Takes this process's number, and returns the one that is agreed on, or None.

        Args:
          number: 1 or more; None for nothing. To be said until it is agreed on.
        """
        if self._alone:
            return number
        self._steps += 1
        if self._steps < self._every:
            return None
        now = time.perf_counter()
        most = _QUIET * self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        # The largest number, and the smallest wish.
        said = np.array([[number or 0, -min(max(int(most), 1), _MOST_QUIET)]], np.int32)
        everywhere = jax.make_array_from_callback(
            (self._size, 2), self._sharding, lambda index: said
        )
        before, self._pending = self._pending, self._largest(everywhere)
        if before is None:
            return None
        agreed, every = np.asarray(before)
        self._every = -int(every)
        return int(agreed) or None


def _check_by_hand(coordinator, num_processes, process_id):
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit()):
        raise InputError(f"coordinator must be HOST:PORT of process 0, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id must lie in 0 to num_processes - 1 = {num_processes - 1}, got {process_id}"
        )
