"""Connects this process with the other processes of its run, before any use of JAX."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Mapping

import jax

from quantjax.errors import InputError
from quantjax.run import console

TIMEOUT = 300
"""Default of the seconds in which the processes of a run must find each other."""

_SAID_EVERY = 30.0  # seconds between two lines about who is waited for
_CHECKED_EVERY = 0.25  # seconds; how long a signal may have to wait
_SPARE = 60  # seconds that JAX waits longer: at its own limit it aborts the process
_NAME = "connect"  # name of the thread
_NO_GPU = {"", "-1", "NoDevFiles"}  # CUDA_VISIBLE_DEVICES of a process without GPUs


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool | None = None,
    start_timeout: int = TIMEOUT,
) -> None:
    """Connects this process with the other processes of the run; call before any use of JAX.

    Slurm (a step of several tasks), Kubernetes (an indexed job, with the package kubernetes), Open
    MPI and Cloud TPU hosts that name each other are detected automatically. A process without
    others starts alone. Every 30 s of waiting a line says for whom. Messages between processes are
    neither encrypted nor signed, so the network must be trusted.

    Args:
      coordinator: HOST:PORT of process 0, to start by hand. Process 0 listens there and on no other
        address; where a cluster was detected, it listens on all addresses of its host.
      num_processes: Number of processes, to start by hand.
      process_id: Number of this process, from 0, to start by hand.
      detect: True lets JAX search for a cluster although none was detected here; False runs alone
        although a cluster was detected.
      start_timeout: Seconds in which all processes must have started.

    Raises:
      ValueError: if only a part of the first three is given, their values do not fit, the
        coordinator's name is unknown, process 0 cannot listen there, the other processes do not
        connect in time, no cluster is recognised, or no GPU is left for this process.
    """
    by_hand = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id
    }  # fmt: skip
    if start_timeout < 1:
        raise InputError(f"start_timeout must be 1 or more, got {start_timeout}")
    missing = [name for name, value in by_hand.items() if value is None]
    if missing and len(missing) < len(by_hand):
        raise InputError(f"{', '.join(by_hand)} go together; missing: {', '.join(missing)}")
    if not missing:
        _check_by_hand(coordinator, num_processes, process_id)
        options = {
            "coordinator_address": coordinator,
            "coordinator_bind_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
        _initialize(options, start_timeout)
    elif in_a_cluster(os.environ) if detect is None else detect:
        _initialize({}, start_timeout)
        if has_all_gpus(os.environ):
            for kind in ("cuda", "rocm"):
                jax.config.update(f"jax_{kind}_visible_devices", "all")


def unfinished() -> bool:
    """Returns whether a start that was given up still waits for the others in the background.

    JAX then knows no number of processes, and a question for it would wait as well.
    """
    return any(thread.name == _NAME for thread in threading.enumerate())


def _initialize(options, start_timeout):
    """Connects by JAX, and says every half minute who is missing."""
    failed = []

    def connect():
        try:
            jax.distributed.initialize(**options, initialization_timeout=start_timeout + _SPARE)
        except Exception as error:  # raised below, in the thread that waits
            failed.append(error)

    # In a thread: JAX waits without Python, so that no signal would be handled.
    thread = threading.Thread(target=connect, name=_NAME, daemon=True)
    thread.start()
    began, said = time.monotonic(), 0.0
    while thread.is_alive():
        thread.join(_CHECKED_EVERY)
        seconds = time.monotonic() - began
        if thread.is_alive() and seconds >= start_timeout:
            raise InputError(
                f"the processes did not find each other in {start_timeout} s: "
                f"{_missing(options)}; start all processes, or raise start_timeout"
            )
        if seconds - said >= _SAID_EVERY:
            said = seconds
            console.say(f"{seconds:.0f} s of {start_timeout} s: {_missing(options)}")
    if failed:
        reason = str(failed[0]).splitlines()[0]
        if not options and reason.startswith("coordinator_address should"):  # JAX's words for it
            raise InputError(
                "JAX recognises no cluster here (in Kubernetes it needs the package kubernetes); "
                "give nodetect to run alone, or coordinator, num_processes and process_id"
            ) from None
        raise InputError(f"the processes did not find each other: {reason}") from None
    # JAX has put itself in the place of the handler, and would swallow the signal.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _missing(options):
    """Returns for whom this process waits, in words."""
    if not options:
        return "not all processes of the cluster have started"
    address, number = options["coordinator_address"], options["process_id"]
    host, port = _parts(address)
    if number:
        with socket.socket() as probe:
            try:
                probe.settimeout(1)
                probe.connect((host, port))
            except OSError as error:
                return f"process 0 does not answer at {address} ({error.strerror or error})"
        return f"process 0 answers at {address}, but not all of the others have started"
    words = f"not all of the other {options['num_processes'] - 1} have connected to {address}"
    # /etc/hosts of many systems gives a host's own name such an address.
    number = str(socket.getaddrinfo(host, port)[0][4][0])
    if number.startswith("127.") and number != host and host != "localhost":
        words += f" ({number} here, which no other host can reach: name another address)"
    return words


def _check_by_hand(coordinator, num_processes, process_id):
    """Raises InputError if processes that start by hand with these values would never meet."""
    host, port = _parts(coordinator)
    if num_processes < 1:
        raise InputError(f"num_processes must be 1 or more, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id must lie in 0 to num_processes - 1 = {num_processes - 1}, got {process_id}"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"the coordinator's name {host!r} is unknown ({error.strerror or error}); give "
            "HOST:PORT of process 0"
        ) from None
    if process_id:
        return
    # Tried here first, since JAX ends in a segmentation fault where it cannot listen.
    try:
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen at {coordinator} ({os.strerror(error.errno or 0)}); run it "
            "on that host, and take a port that is free"
        ) from None


def _parts(coordinator):
    """Returns host and port of HOST:PORT, the host without the brackets of IPv6."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"coordinator must be HOST:PORT of process 0, got {coordinator!r}")
    return host.strip("[]"), int(port)


def in_a_cluster(environment: Mapping[str, str]) -> bool:
    """Returns whether a launcher, such as Slurm, started this process as one of several.

    Args:
      environment: Such as `os.environ`.
    """
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return (
        any(environment.get(name, "").isdigit() and int(environment[name]) > 1 for name in tasks)
        or {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def has_all_gpus(environment: Mapping[str, str]) -> bool:
    """Returns whether a process of a cluster may use all GPUs that it sees.

    It may if it is the only process of its host, or if it sees a single GPU, by number or UUID.
    Among several processes of a host, JAX gives each the GPU with the process's number on that
    host.

    Args:
      environment: Such as `os.environ`; JAX_LOCAL_DEVICE_IDS in it has the last word.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    if len(_visible_gpus(environment) or ()) == 1:
        return True
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:  # its processes have Slurm's variables too
        return environment["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    # Such as "1(x2)" for a task on each of two hosts.
    per_host = re.sub(r"\(x\d+\)", "", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return set(per_host.split(",")) == {"1"}


def own_gpus(environment: Mapping[str, str], chosen: str) -> str:
    """Returns which GPUs of its host a process takes, in words, such as "GPU 3".

    Args:
      environment: Such as `os.environ`. CUDA_VISIBLE_DEVICES has numbers, or UUIDs such as
        "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6".
      chosen: The config value `jax_cuda_visible_devices`: "all", or places in that list.

    Raises:
      ValueError: if the list has no GPU at a chosen place.
    """
    visible = _visible_gpus(environment)
    if chosen == "all":
        if visible is None:
            return "all GPUs"
        gpus = visible
    else:
        places = [int(place) for place in chosen.split(",")]
        if visible is not None and max(places) >= len(visible):
            raise InputError(
                f"process {max(places)} of this host has no GPU of its own: CUDA_VISIBLE_DEVICES "
                f"names {len(visible)}; start fewer processes on a host, or let them see more GPUs"
            )
        gpus = [str(place) if visible is None else visible[place] for place in places]
    return f"GPU{'s' if len(gpus) > 1 else ''} {', '.join(gpus)}" if gpus else "no GPU"


def _visible_gpus(environment):
    """Returns the entries of CUDA_VISIBLE_DEVICES, or None where it is not set."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    return [each for each in map(str.strip, listed.split(",")) if each not in _NO_GPU]
