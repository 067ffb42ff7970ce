"""Lets the processes of one run agree and share results.

Every process runs the same program and takes the same steps. If a fact is known to one process only
(a signal, an existing file), the processes agree on it here first.
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
from quantjax.run import connection

_QUIET = 0.25  # seconds between two exchanges of `Agreement`
_MOST_QUIET = 16  # most steps between two exchanges, however short the steps are
_LAST_OUT = 2.0  # seconds for the other processes to end before process 0


def repeat_bits() -> None:
    """Makes GPU results bitwise reproducible; call before any use of JAX.

    GPUs then add in a fixed order, as CPUs and TPUs always do. XLA sorts in place of scattering,
    and does not time kernels to choose among them, so runs may take longer.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def leave(status: int, *, at_once: bool = False) -> NoReturn:
    """Ends a failed process without waiting for the other processes, which would wait for it.

    Args:
      status: Exit code.
      at_once: Whether a process that runs alone also ends without waiting for its threads.
    """
    # Asked in this order: without devices JAX does not know the number of processes.
    if at_once or connection.unfinished() or jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        # JAX aborts processes that still run, such as one that a signal reaches later, when
        # process 0, which coordinates them, is gone.
        if several() and is_first():
            time.sleep(_LAST_OUT)
        os._exit(status)
    sys.exit(status)


# What JAX's runtime says of a process that is gone; it has no error type for it.
_LOST = re.compile("Gloo|Connection (closed|reset)|UNAVAILABLE|heartbeat|coordination service")


def lost_peer(error: BaseException) -> str | None:
    """Returns one line about a process of the run that is gone, or None for any other error.

    Args:
      error: Error that ended the run in this process. One that `train.fit` raised before its first
        step gives None: a run that never trains must not be tried again and again.
    """
    is_lost = isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error))
    if not is_lost or not several() or getattr(error, "history", None) == []:
        return None
    return f"another process of the run is gone: {str(error).splitlines()[0][:200]}"


def several() -> bool:
    """Returns whether the run has more than one process."""
    if connection.unfinished() or not jax.distributed.is_initialized():
        return False
    return jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def number() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in process 0 only, and returns its result in every process.

    Args:
      function: Returns JSON.

    Returns:
      The function's result, in every process.

    Raises:
      ValueError: in every process, if the function raised an error of `quantjax.errors`, or of a
        disk that cannot be written to; the message is the same.
      RuntimeError: in the other processes, if the function raised any other error; process 0 raises
        the error itself.
    """
    if jax.process_count() == 1:
        return function()
    said, caught = b"", None
    if is_first():
        try:
            answer = {"result": function()}
        except Exception as error:  # sent to the others, which would wait for ever
            caught = error
            answer = {"error": str(error), "type": type(error).__name__}
            answer["one line"] = is_one_line(error)
        said = json.dumps(answer).encode()
    # The length goes first, since a broadcast needs the same shape in every process.
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


def from_all(value: Any) -> list[Any]:
    """Returns every process's value, in the order of the processes' numbers.

    Args:
      value: This process's value, JSON.
    """
    if jax.process_count() == 1:
        return [value]
    said = json.dumps(value).encode()
    # An all-gather needs the same shape in every process.
    said = np.frombuffer(said.ljust(all_agree(len(said))), np.uint8)
    return [json.loads(bytes(row)) for row in multihost_utils.process_allgather(said)]


def all_agree(number: int) -> int:
    """Returns the largest of the processes' numbers, in every process.

    Args:
      number: 0 for success, more for a failure.
    """
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def check_same(about: dict[str, Any]) -> None:
    """Raises ValueError if the processes do not all run with the same settings.

    Args:
      about: Settings that must not differ (JSON).

    Raises:
      ValueError: in every process, if settings differ; a process that differs from process 0 names
        the keys.
    """
    if jax.process_count() == 1:
        return
    # Through JSON like the first process's settings: tuples become lists on both sides.
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
    """Returns whether a mesh has devices of other processes."""
    return mesh is not None and mesh.is_multi_process


def share(num_rows: int) -> slice:
    """Returns this process's slice of rows that are divided evenly among the processes."""
    start, stop = _bounds(num_rows)[jax.process_index() :][:2]
    return slice(int(start), int(stop))


def _bounds(num_rows):
    return np.linspace(0, num_rows, jax.process_count() + 1).astype(int)


def join(x: np.ndarray, num_rows: int) -> np.ndarray:
    """Joins the rows that each process computed for its `share`, bit for bit.

    Args:
      x: Rows of this process's share, [n, ...], of any type.
      num_rows: Rows in all.

    Returns:
      All rows [num_rows, ...], in every process.
    """
    sizes = np.diff(_bounds(num_rows))
    # As bytes: sent as they are, float64 would arrive as float32.
    width = x.dtype.itemsize * math.prod(x.shape[1:])
    raw = np.frombuffer(x.tobytes(), np.uint8).reshape(len(x), width)
    # An all-gather needs the same shape in every process; the padding is cut off below.
    raw = np.pad(raw, ((0, sizes.max() - len(raw)), (0, 0)))
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    whole = np.concatenate([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return np.ascontiguousarray(whole).view(x.dtype).reshape(num_rows, *x.shape[1:])


def on_host(tree: Any) -> Any:
    """Returns a pytree whose arrays a process can use without the other processes.

    Args:
      tree: Arrays that are replicated on every device, or only on this process's devices.
    """

    def is_spread(x):
        return isinstance(x, jax.Array) and not x.is_fully_addressable

    return jax.tree.map(lambda x: np.asarray(x) if is_spread(x) else x, tree)


class Agreement:
    """Lets all processes stop at the same step, although a signal reaches them at different steps.

    Each process passes its signal's number at every step. Every quarter of a second, or at every
    step that takes longer, the processes exchange the numbers while the step computes. At the next
    exchange all processes know the largest number. They agree on the number of steps between
    exchanges in the same way. A process that runs alone gets its own number at once.
    """

    def __init__(self, mesh: Mesh):
        self._alone = not spans(mesh)
        self._pending: jax.Array | None = None
        rows, whole = (NamedSharding(mesh, PartitionSpec(*cut)) for cut in (mesh.axis_names, ()))
        self._sharding = rows
        self._largest = jax.jit(lambda said: jnp.max(said, axis=0), out_shardings=whole)
        self._size = mesh.size
        self._every, self._steps, self._since = 1, 0, time.perf_counter()

    def at_end(self, number: int | None) -> int | None:
        """Waits for all processes and returns their final agreed number, at the end of training.

        Args:
          number: Number of a signal, 1 or more; None without a signal.
        """
        return number if self._alone else all_agree(number or 0) or None

    def exchange(self, number: int | None) -> int | None:
        """Passes this process's number to the others; returns the agreed number, or None.

        Args:
          number: Number of a signal, 1 or more; None without a signal. A process must pass the
            number at every step until it is agreed on.
        """
        if self._alone:
            return number
        self._steps += 1
        if self._steps < self._every:
            return None
        now = time.perf_counter()
        most = _QUIET * self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        # The interval is negated, so that one maximum gives the largest number and the smallest
        # interval that any process asks for.
        said = np.array([[number or 0, -min(max(int(most), 1), _MOST_QUIET)]], np.int32)
        everywhere = jax.make_array_from_callback(
            (self._size, 2), self._sharding, lambda index: said
        )
        # Reads the previous exchange, which is done by now: reading this one would stall the step.
        before, self._pending = self._pending, self._largest(everywhere)
        if before is None:
            return None
        agreed, every = np.asarray(before)
        self._every = -int(every)
        return int(agreed) or None
