"""Checks the devices of a run, and describes processes and devices in a few words."""

import collections
import os
import socket

import jax

from quantjax.errors import InputError
from quantjax.run import connection, processes

_MOST_HOSTS = 3  # whose names are shown


def check() -> None:
    """Raises ValueError if JAX finds no device on this host.

    Raises:
      ValueError: with JAX's reason, in one line.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = jax.config.values["jax_platforms"] or "any platform"
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].partition("\n")[0]
        reason = reason or "its package is not installed"
        raise InputError(
            f"JAX has no device of {asked}: {reason}; change JAX_PLATFORMS, or install JAX for it"
        ) from None


def describe(*, batch_size: int | None = None, precision: str | None = None) -> list[str]:
    """Describes processes, hosts, devices and batch of the run, the same in every process.

    Args:
      batch_size: Rows of a batch on all devices together; left out when None.
      precision: Type that networks compute in; left out when None.

    Returns:
      One line, and for each host with several processes another, which says their GPUs.

    Raises:
      ValueError: in a process that has no GPU of its own.
    """
    here = {
        "host": socket.gethostname(),
        "kinds": [each.device_kind for each in jax.local_devices()],
    }
    if jax.default_backend() == "gpu":
        chosen = jax.config.values["jax_cuda_visible_devices"]
        here["gpus"] = connection.own_gpus(os.environ, chosen)
    return in_words(processes.from_all(here), batch_size, precision)


def in_words(places: list[dict], batch_size: int | None, precision: str | None) -> list[str]:
    """Returns the lines of `describe` for given processes.

    Args:
      places: For each process "host", "kinds" of its devices, and maybe "gpus" in words.
      batch_size: See `describe`.
      precision: See `describe`.
    """
    hosts = collections.defaultdict(list)
    for number, place in enumerate(places):
        hosts[place["host"]].append(number)
    kinds = collections.Counter(kind for place in places for kind in place["kinds"])
    told = ", ".join([*hosts][:_MOST_HOSTS])
    if len(hosts) > _MOST_HOSTS:
        told += f" and {len(hosts) - _MOST_HOSTS} more hosts"
    number = "1 process" if len(places) == 1 else f"{len(places)} processes"
    line = [f"{number} on {told}", ", ".join(f"{kinds[kind]} x {kind}" for kind in kinds)]
    line += [] if precision is None else [precision]
    if batch_size is not None:
        line += [f"batch {batch_size}, {batch_size // kinds.total()} on each"]
    lines = ["; ".join(line)]
    for host, numbers in hosts.items():
        if len(numbers) > 1 and "gpus" in places[numbers[0]]:
            takes = [f"process {number} takes {places[number]['gpus']}" for number in numbers]
            lines.append(f"{host}: {', '.join(takes)}")
    return lines
